"""Lock on a folder, so that only one driver (process of a program) at a time writes into it."""

import fcntl
import os
from pathlib import Path

from mtl.errors import InputError

LOCK = "driver.lock"
"""Name of the lock file; it holds the process ID of the driver (process of the program)."""


class DriverLock:
    """Lock on a run folder or an output folder, held until ``close`` or the end of the process.

    Args:
        folder: The folder to lock; made if it does not exist.

    Raises:
        InputError: If another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / LOCK).open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = self._owner()
            self._file.close()
            raise InputError(
                f"{folder}: another driver (process {owner}) is working on it; wait for its end, "
                "stop it, or give another name or folder."
            ) from None
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def _owner(self) -> str:
        self._file.seek(0)
        return self._file.read().strip() or "unknown"

    def close(self) -> None:
        """Release the lock on the folder."""
        # The file stays: its removal could race with the next driver's lock.
        self._file.close()
