"""One driver at a time writes a folder."""

import fcntl
import os
from pathlib import Path

from mtl.errors import InputError

LOCK = "driver.lock"


class DriverLock:
    """The right to write a sweep's folder, or an output folder, until `close` or the death of the
    process.

    Raises:
        InputError: another driver holds it.
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
        """Let the next driver in; the file stays, since removing it would race with that driver."""
        self._file.close()
