"""Wall time and peak memory of a complete sweep, with all its processes.

python benchmarks/main_job.py [--space search.yaml] [path=value ...]

Runs ``python sweeps/run.py`` in an empty folder with a search file and overrides. Every half second
the memory of this program and all its child processes, Ray's included, is added up. Memory
is measured as PSS (proportional set size), which counts shared pages once. Prints a table and one
JSON line.
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
"""Time between two measurements of memory."""


def tree_pss(process: psutil.Process) -> int:
    """Return the memory of a process and all its descendants, in bytes.

    Memory is measured as PSS (proportional set size), which counts shared pages once.
    """
    return sum(map(pss, [process, *process.children(recursive=True)]))


def pss(process: psutil.Process) -> int:
    """Return the PSS (proportional set size) of a process in bytes, or 0 if it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def main() -> int:
    """Run a sweep, print its wall time and peak memory, and return the sweep's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", type=Path, default=ROOT / "search.yaml")
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    program = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--space", args.space.resolve()]
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        run = subprocess.Popen([*program, *args.overrides], cwd=folder)
        process, peak = psutil.Process(run.pid), 0
        while run.poll() is None:
            peak = max(peak, tree_pss(process))
            time.sleep(EVERY_SECONDS)
        seconds = time.monotonic() - started
    print("\n| space | minutes | peak PSS GiB | exit code |")
    print("|---|---|---|---|")
    name, gib = args.space.name, peak / 2**30
    print(f"| {name} | {seconds / 60:.1f} | {gib:.2f} | {run.returncode} |")
    result = {"space": name, "seconds": round(seconds, 1), "peak_pss_gib": round(gib, 2)}
    print(json.dumps({"benchmark": "main_job", **result, "exit_code": run.returncode}))
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
