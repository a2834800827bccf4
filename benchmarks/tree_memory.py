"""Memory of process trees, shared pages counted once."""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

EVERY_SECONDS = 0.5


class MemoryWatch(threading.Thread):
    """Samples the memory of all processes that descend from this one; ``with`` it.

    Attributes:
        samples: Seconds since the epoch, and bytes.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int]] = []
        self._over = threading.Event()

    def run(self) -> None:
        """Sample until the end."""
        while not self._over.wait(EVERY_SECONDS):
            processes = psutil.Process().children(recursive=True)
            self.samples.append((time.time(), memory_bytes(process.pid for process in processes)))

    def __enter__(self) -> "MemoryWatch":
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        self.join()


def memory_bytes(pids: Iterable[int]) -> int:
    """PSS of processes, and what their object store holds that is mapped into none of them."""
    pss = shared = 0
    store: dict[int, int] = {}
    for pid in pids:
        with suppress(OSError):  # it has just ended
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            kib = {line.partition(":")[0]: int(line.split()[1]) for line in rollup}
            pss += 1024 * kib["Pss"]
            shared += 1024 * kib["Pss_Shmem"]
            store |= _object_store(pid)
    return pss + max(0, sum(store.values()) - shared)


def _object_store(pid: int) -> dict[int, int]:
    """Bytes in use of Ray's shared files that a process has open, by inode."""
    found = {}
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            if str(descriptor.readlink()).startswith("/dev/shm/plasma"):
                file = descriptor.stat()
                found[file.st_ino] = 512 * file.st_blocks
    return found
