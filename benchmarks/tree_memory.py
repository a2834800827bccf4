"""Memory of processes and their child processes, with shared pages counted once."""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

EVERY_SECONDS = 0.5
"""Time between two measurements of memory."""


class MemoryWatch(threading.Thread):
    """Context manager that measures the memory of this process's descendants every half second.

    Attributes:
        samples: One pair per measurement: the time in seconds since the epoch, and the memory of
            all descendants (child processes, their child processes, and so on) together, in bytes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        """Append a measurement to ``samples`` every half second until the context is left."""
        while not self._stopped.wait(EVERY_SECONDS):
            processes = psutil.Process().children(recursive=True)
            self.samples.append((time.time(), memory_bytes(process.pid for process in processes)))

    def __enter__(self) -> "MemoryWatch":
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stopped.set()
        self.join()


def memory_bytes(pids: Iterable[int]) -> int:
    """Return the memory of some processes and of Ray's object store that they use, in bytes.

    The memory is the sum of the processes' PSS (proportional set size) plus the pages of the object
    store that none of the processes has mapped. A process that has ended counts as 0.

    Args:
        pids: Ids of the processes.
    """
    pss = shared = 0
    store: dict[int, int] = {}
    for pid in pids:
        with suppress(OSError):  # the process may have ended
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kib = {line.partition(":")[0]: int(line.split()[1]) for line in rollup}
            pss += 1024 * kib["Pss"]
            shared += 1024 * kib["Pss_Shmem"]
            store |= _object_store(pid)
    return pss + max(0, sum(store.values()) - shared)


def _object_store(pid: int) -> dict[int, int]:
    """Return, by inode, the used bytes of each object store file that a process has open."""
    sizes = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # the file may have been closed
            if str(descriptor.readlink()).startswith("/dev/shm/plasma"):
                file = descriptor.stat()
                sizes[file.st_ino] = 512 * file.st_blocks
    return sizes
