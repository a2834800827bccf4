"""Peak memory of a computation: of CUDA's allocator on a GPU, else of this process."""

import ctypes
import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
"""Files of Linux: memory of this process, and the switch that resets its peak."""


class PeakMemory:
    """Meter of the largest memory that is allocated after the meter is made.

    On a CPU this is the growth of the process's resident memory, above that at the start. Where the
    operating system cannot reset the peak (no Linux), it is the growth above the earlier peak.

    Args:
        device: Device of the computation.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._start = torch.cuda.memory_allocated(device)
        else:
            self._start = _reset_peak() or _highest()

    def peak_bytes(self) -> int:
        """Return the largest memory in use since the start, minus the memory then, in bytes."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) - self._start
        return max(0, (_status("VmHWM") or _highest()) - self._start)


def _reset_peak() -> int | None:
    """Reset the peak of this process's memory; return the present memory, None if impossible.

    Memory that the process has freed but not returned is returned first. Otherwise the computation
    would use it without any growth of the process.
    """
    with suppress(OSError, AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(key: str) -> int | None:
    """Return a size in bytes from the process's status file of Linux; None if it has none."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return 1024 * int(found[0]) if found else None


def _highest() -> int:
    """Return the largest resident memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine_bytes() -> int:
    """Return the size of this machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
