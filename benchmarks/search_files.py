"""Fused scores of the sweeps of two search files, compared over several seeds.

python benchmarks/search_files.py BEFORE.yaml AFTER.yaml [path=value ...] --out DIR
                                  [--seeds 1 2 3 4 5]

For each seed (``search.seed``: the sampler's, and that of the division of the validation videos)
one sweep of each file runs, one after the other, in ``DIR``. The words after the files override
both. The same command continues after a stop. Prints the score P of each fused model on `confirm`,
with post-processing, the wall time of the sweeps, and the mean difference (after minus before) with
Student's 95 % interval over the seeds.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from over_seeds import mean_and_half

ROOT = Path(__file__).parents[1]
SIDES = ("before", "after")


def run_sweep(
    file: Path, side: str, seed: int, folder: Path, overrides: Sequence[str]
) -> dict[str, float]:
    """Run one sweep to its end and return the fused model's score and the wall time in seconds.

    Args:
        file: The search file.
        side: ``before`` or ``after``, of which the sweep's name is made.
        seed: Value of ``search.seed``.
        folder: Folder that gets the sweep's folder, in ``runs``.
        overrides: More overrides of the search file.
    """
    name = f"{side}-{seed}"
    words = [f"search.seed={seed}", f"name={name}", *overrides]
    program = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--space", str(file.resolve())]
    started = time.monotonic()
    subprocess.run([*program, *words], cwd=folder, check=True)
    scores = json.loads((folder / "runs" / name / "scores.json").read_text())
    return {
        "p": scores["confirm"]["fused"]["p_labelled"],
        "seconds": round(time.monotonic() - started, 1),
    }


def summary(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """Return the mean scores of both sides and their mean difference with its 95 % interval.

    Args:
        found: For each seed, what ``run_sweep`` returned for ``before`` and for ``after``.
    """
    means = {side: mean_and_half([pair[side]["p"] for pair in found.values()]) for side in SIDES}
    mean, half = mean_and_half(
        [pair["after"]["p"] - pair["before"]["p"] for pair in found.values()]
    )
    return {
        **{side: round(means[side][0], 4) for side in SIDES},
        "difference": round(mean, 4),
        "interval": [round(mean - half, 4), round(mean + half, 4)],
    }


def table(found: Mapping[int, Mapping[str, Mapping[str, float]]]) -> str:
    """Return the scores and times by seed, and the mean difference, as a Markdown table."""
    lines = ["| seed | P before | P after | difference | seconds before | seconds after |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for seed, pair in found.items():
        before, after = pair["before"], pair["after"]
        lines.append(
            f"| {seed} | {before['p']:.3f} | {after['p']:.3f} | {after['p'] - before['p']:+.3f} | "
            f"{before['seconds']:.0f} | {after['seconds']:.0f} |"
        )
    total = summary(found)
    low, high = total["interval"]
    lines.append(
        f"| mean | {total['before']:.3f} | {total['after']:.3f} | "
        f"{total['difference']:+.3f} [{low:+.3f}, {high:+.3f}] | | |"
    )
    return "\n".join(lines)


def main() -> None:
    """Run the sweeps of both files for each seed, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    arguments = parser.parse_intermixed_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    files = dict(zip(SIDES, (arguments.before, arguments.after), strict=True))
    found = {
        seed: {
            side: run_sweep(file, side, seed, arguments.out, arguments.overrides)
            for side, file in files.items()
        }
        for seed in arguments.seeds
    }
    print(table(found))
    print(json.dumps({"benchmark": "search_files", "seeds": found, **summary(found)}))


if __name__ == "__main__":
    main()
