import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mtl.errors import InputError
from sweeps.storage.driver_lock import LOCK, DriverLock

HOLD_LOCK = """
import sys
from pathlib import Path
from sweeps.storage.driver_lock import DriverLock
lock = DriverLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()  # until the test ends
"""


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    first = DriverLock(tmp_path / "runs" / "demo")
    with pytest.raises(InputError, match=f"runs/demo: .*process {os.getpid()}.*"):
        DriverLock(tmp_path / "runs" / "demo")
    first.close()
    DriverLock(tmp_path / "runs" / "demo").close()


def test_one_of_several_drivers_that_start_together_gets_the_lock(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)

    def start(_: int) -> DriverLock | None:
        barrier.wait()
        try:
            return DriverLock(tmp_path)
        except InputError:
            return None

    with ThreadPoolExecutor(8) as drivers:
        held = [lock for lock in drivers.map(start, range(8)) if lock]
    assert len(held) == 1
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
    held[0].close()


def test_a_killed_driver_holds_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"process {driver.pid}"):
            DriverLock(tmp_path)
        driver.send_signal(signal.SIGKILL)
    DriverLock(tmp_path).close()
    assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"
