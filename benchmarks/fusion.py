"""What the end of a sweep costs: its trials fused, scored with 1,000 draws of videos, written.

python benchmarks/fusion.py [--trials 500] [--frames 27000] [--videos 300] [--folder DIR]

Trials that err alike (and differ in skill) leave predictions of all frames, half of them `select`,
half `confirm`. Timed is `SweepFusion.finish`, all of it: reading, choosing, post-processing,
scores with intervals, other rules, small ensembles, contributions, the report; at most 2 minutes
on 2 cores are wanted for 500 trials. Beside it, on all trials and not only the best 25 of each
task: the greedy choice and the draws of one model, against the same by a plain NumPy loop that
averages and scores each candidate, and each draw, from scratch. Prints the peak of memory before
the loop begins. The folder it makes takes 2.5 MB a trial and is removed.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.dataset import Dataset, Listing
from mtl.ensemble.selection import greedy
from mtl.evaluation.bootstrap import bootstrap, draw_videos
from mtl.evaluation.metrics import scores, task_score, task_sums
from mtl.predictions.table import Predictions, outputs_of
from mtl.tasks import TASKS
from sweeps.fusion.sweep import SweepFusion
from sweeps.search_file import FusionSection

SEED = 23
STEPS = 25
TRAIN_FRAMES = 100


def make_listing(videos: int, frames: int) -> Listing:
    """Videos of equal length with labels of all tasks, and a short one to train on."""
    random = np.random.default_rng(SEED)
    lengths = [*np.full(videos, frames // videos), TRAIN_FRAMES]
    video = np.repeat(np.arange(videos + 1), lengths).astype(np.int32)
    values = np.zeros((len(video), 15), np.float32)
    values[:, :2] = np.tanh(random.normal(0, 0.4, (videos + 1, 2))[video])
    values[:, 2] = random.integers(0, 8, videos + 1)[video]
    values[:, 3:] = random.random((len(video), 12)) < 0.3
    return Listing(
        names=tuple(f"v{number:04d}" for number in range(videos + 1)),
        splits=("validation",) * videos + ("train",),
        subjects=tuple(f"v{number:04d}" for number in range(videos + 1)),
        video=video,
        frame=np.concatenate([np.arange(1, length + 1) for length in lengths]).astype(np.int32),
        values=values,
        mask=np.ones(values.shape, bool),
    )


def write_trials(folder: Path, listing: Listing, trials: int, rows: np.ndarray) -> None:
    """Predictions of differing skill, half of whose error is shared."""
    random = np.random.default_rng([SEED, 1])
    truth = outputs_of(listing.values[rows], listing.mask[rows])
    shared = random.standard_normal(truth.shape, np.float32)
    select = listing.video[rows] % 2 == 0
    labels, mask = listing.values[rows][select], listing.mask[rows][select]
    for number in range(trials):
        error = shared + random.standard_normal(truth.shape, np.float32)
        outputs = truth * 0.5 + 0.25 + random.uniform(0.2, 0.5) * error
        trial = folder / "trials" / f"{number:016x}"
        trial.mkdir(parents=True)
        own = listing.video[rows], listing.frame[rows], listing.names, outputs
        Predictions(*own).save(trial / "predictions.parquet")
        found = scores(outputs[select], labels, mask)
        tasks = {name: found[f"{task.score}_{name}"] for name, task in TASKS.items()}
        content = {
            "select": {"score": found["p_labelled"], **tasks},
            "epochs": dict.fromkeys(tasks, 1),
        }
        (trial / "scores.json").write_text(json.dumps(content))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def plain_greedy(members: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> dict[str, list[int]]:
    """The same choice, each candidate's mean averaged and scored from scratch."""
    chosen: dict[str, list[int]] = {}
    for name, task in TASKS.items():
        own, known = labels[:, task.labels], mask[:, task.labels]
        taken: list[int] = []
        total = np.zeros((len(labels), task.width))
        for step in range(1, STEPS + 1):
            means = ((total + member[:, task.outputs]) / step for member in members)
            rated = [task_score(task, task_sums(task, mean, own, known)) for mean in means]
            taken.append(int(np.argmax(np.array(rated, float))))
            total += members[taken[-1]][:, task.outputs]
        chosen[name] = taken
    return chosen


def plain_draws(
    outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray, video: np.ndarray
) -> np.ndarray:
    """P of each draw, from the drawn frames."""
    names = np.unique(video)
    rows = {name: np.flatnonzero(video == name) for name in names}
    found = []
    for counts in draw_videos(len(names)).astype(int):
        drawn = np.concatenate(
            [rows[n] for n, c in zip(names, counts, strict=True) for _ in range(c)]
        )
        found.append(scores(outputs[drawn], labels[drawn], mask[drawn])["p_labelled"])
    return np.array(found)


def measure(words: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All of it, in seconds and MB."""
    listing = make_listing(words.videos, words.frames)
    rows = np.flatnonzero(listing.video < words.videos)
    parts = {name: ("select", "confirm")[i % 2] for i, name in enumerate(listing.names)}
    parts[listing.names[-1]] = "train"
    written, _ = timed(lambda: write_trials(folder, listing, words.trials, rows))
    dataset = Dataset(str(folder), {"image_name": "{frame:05d}.jpg"})
    before = _peak_mb()
    fusion = SweepFusion(folder, dataset, listing, parts, FusionSection(steps=STEPS))
    whole, content = timed(fusion.finish)
    peak = _peak_mb()
    again, _ = timed(lambda: (fusion.used(), fusion.improve()))
    select = rows[listing.video[rows] % 2 == 0]
    labels, mask = listing.values[select], listing.mask[select]
    stored = [
        Predictions.load(trial / "predictions.parquet").outputs
        for trial in sorted((folder / "trials").iterdir())
    ]
    members = np.stack([outputs[listing.video[rows] % 2 == 0] for outputs in stored])
    mine, chosen = timed(
        lambda: {
            name: greedy(
                task,
                members[:, :, task.outputs],
                labels[:, task.labels],
                mask[:, task.labels],
                STEPS,
            )
            for name, task in TASKS.items()
        }
    )
    plain, taken = timed(lambda: plain_greedy(members, labels, mask))
    for name, own in chosen.items():
        kept = np.bincount(taken[name][: len(own.path)], minlength=len(members))
        np.testing.assert_array_equal(own.weights, kept)
    draws, sampled = timed(lambda: bootstrap(members[0], labels, mask, listing.video[select]))
    plainly, drawn = timed(lambda: plain_draws(members[0], labels, mask, listing.video[select]))
    np.testing.assert_allclose(sampled["p_labelled"].draws, drawn, atol=1e-6)
    return {
        "written_s": written,
        "whole_s": whole,
        "again_s": again,
        "peak_mb": peak,
        "own_mb": peak - before,
        "greedy_s": mine,
        "plain_greedy_s": plain,
        "draws_s": draws,
        "plain_draws_s": plainly,
        "p_select": content["rules"]["greedy"]["select"]["p"],
        "steps": {name: len(own.path) for name, own in chosen.items()},
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(found: dict[str, Any]) -> str:
    """The measurement in words."""
    return "\n".join(
        [
            "| | seconds | plain NumPy loop | ratio |",
            "|---|---:|---:|---:|",
            f"| a sweep's end, all of it | {found['whole_s']:.1f} | | |",
            f"| fused again, nothing new | {found['again_s']:.2f} | | |",
            _row("greedy choice among all trials", found["greedy_s"], found["plain_greedy_s"]),
            _row("1,000 draws of one model", found["draws_s"], found["plain_draws_s"]),
            f"\npeak {found['peak_mb']:.0f} MB, {found['own_mb']:.0f} MB of it by fusing",
        ]
    )


def _row(what: str, ours: float, plain: float) -> str:
    return f"| {what} | {ours:.2f} | {plain:.1f} | {plain / ours:.1f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--frames", type=int, default=27_000)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--folder", help="where to make the temporary folder")
    words = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        found = measure(words, Path(folder))
    print(table(found))
    print(json.dumps({"benchmark": "fusion", "seed": SEED, **vars(words), **found}))


if __name__ == "__main__":
    main()
