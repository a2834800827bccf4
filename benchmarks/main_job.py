"""The main job as a whole: wall time and memory of a sweep's process tree.

python benchmarks/main_job.py [--space search.yaml] [path=value ...]

Runs ``python sweeps/run.py`` in an empty folder and sums the PSS of all its processes (Ray's
included, shared pages counted once) every half second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
EVERY_SECONDS = 0.5


def tree_pss(process: psutil.Process) -> int:
    """PSS of a process and all that descend from it, in bytes."""
    return sum(map(pss, [process, *process.children(recursive=True)]))


def pss(process: psutil.Process) -> int:
    """A process's PSS in bytes; 0 if it has just ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", type=Path, default=ROOT / "search.yaml")
    parser.add_argument("overrides", nargs="*")
    words = parser.parse_args()
    program = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--space", words.space.resolve()]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        run = subprocess.Popen([*program, *words.overrides], cwd=folder)
        process, peak = psutil.Process(run.pid), 0
        while run.poll() is None:
            peak = max(peak, tree_pss(process))
            time.sleep(EVERY_SECONDS)
        seconds = time.monotonic() - started
    print("\n| space | minutes | peak PSS GiB | exit code |")
    print("|---|---|---|---|")
    name, gib = words.space.name, peak / 2**30
    print(f"| {name} | {seconds / 60:.1f} | {gib:.2f} | {run.returncode} |")
    result = {"space": name, "seconds": round(seconds, 1), "peak_pss_gib": round(gib, 2)}
    print(json.dumps({"benchmark": "main_job", **result, "exit_code": run.returncode}))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
