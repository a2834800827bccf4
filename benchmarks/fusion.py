"""Time and memory of fusing a sweep's trials: select, post-process, score and write.

python benchmarks/fusion.py [--trials 500] [--frames 27000] [--videos 300] [--folder DIR]

Nothing is trained: the trials' predictions are simulated, with errors of different sizes that are
correlated between trials. The predictions cover all validation frames, half of them in videos on
which choices are made (`select`), half in videos held back for the final scores (`confirm`). The
first measurement is the whole of `SweepFusion.finish`, which fuses the trials at the end of a
sweep: reading, greedy selection, post-processing, scores with intervals from 1,000 bootstrap draws,
comparison with other fusion methods and smaller ensembles, each trial's contribution to the score,
and the report. The limit for 500 trials is 2 minutes on 2 cores. Two steps are also compared with
plain NumPy loops: greedy selection among all trials (not only the best 25 per task), where the loop
averages and scores every possible ensemble from scratch, and the bootstrap of one model, where the
loop scores every draw from scratch. The printed peak memory excludes these loops. The temporary
folder takes 2.5 MB per trial and is removed at the end.
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
    """Return the names, splits, frames and random labels of simulated videos.

    The validation videos have equal lengths and all labels; there is also one short training video.

    Args:
        videos: Number of validation videos.
        frames: Number of frames in all validation videos together.
    """
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
    """Write the trial folders of a simulated sweep, each with predictions and scores.

    A prediction is the label plus a random error. The errors differ in size between trials, and
    half of their variance is common to all trials.

    Args:
        folder: Run folder of the sweep, in which the trial folders are created.
        listing: Videos, frames and labels.
        trials: Number of trials.
        rows: Rows of the listing that the trials predict.
    """
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
        predictions = Predictions(listing.video[rows], listing.frame[rows], listing.names, outputs)
        predictions.save(trial / "predictions.parquet")
        by_name = scores(outputs[select], labels, mask)
        tasks = {name: by_name[f"{task.score}_{name}"] for name, task in TASKS.items()}
        content = {
            "select": {"score": by_name["p_labelled"], **tasks},
            "epochs": dict.fromkeys(tasks, 1),
        }
        (trial / "scores.json").write_text(json.dumps(content))


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Call a function and return the call's duration in seconds and the function's result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def plain_greedy(members: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> dict[str, list[int]]:
    """Select an ensemble of trials greedily for each task by a plain loop.

    Each step adds the trial with which the ensemble's mean scores best; a trial can be added
    repeatedly. The mean and the score of every possible ensemble are computed from scratch.

    Args:
        members: Outputs of the trials that may be selected, (trials, N, 22) for N frames.
        labels: Labels of the frames, (N, 15).
        mask: True where a label is known, (N, 15).

    Returns:
        For each task, the numbers of the added trials, one per step.
    """
    selected: dict[str, list[int]] = {}
    for name, task in TASKS.items():
        of_task, known = labels[:, task.labels], mask[:, task.labels]
        taken: list[int] = []
        total = np.zeros((len(labels), task.width))
        for step in range(1, STEPS + 1):
            means = ((total + member[:, task.outputs]) / step for member in members)
            rated = [task_score(task, task_sums(task, mean, of_task, known)) for mean in means]
            taken.append(int(np.argmax(np.array(rated, float))))
            total += members[taken[-1]][:, task.outputs]
        selected[name] = taken
    return selected


def plain_draws(
    outputs: np.ndarray, labels: np.ndarray, mask: np.ndarray, video: np.ndarray
) -> np.ndarray:
    """Return the challenge's score P of each bootstrap draw of videos, computed by a plain loop.

    Args:
        outputs: Outputs of one model, (N, 22) for N frames.
        labels: Labels of the frames, (N, 15).
        mask: True where a label is known, (N, 15).
        video: Video of each frame, (N,).
    """
    names = np.unique(video)
    rows = {name: np.flatnonzero(video == name) for name in names}
    draws = []
    for counts in draw_videos(len(names)).astype(int):
        drawn = np.concatenate(
            [rows[n] for n, c in zip(names, counts, strict=True) for _ in range(c)]
        )
        draws.append(scores(outputs[drawn], labels[drawn], mask[drawn])["p_labelled"])
    return np.array(draws)


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the seconds and the peak memory of fusing the trials of a simulated sweep.

    Args:
        args: Arguments of the command line.
        folder: Folder for the simulated sweep.

    Returns:
        Seconds to write the simulated trials (``written_s``), to fuse them with all steps up to the
        report (``whole_s``) and to repeat the fusion without new trials (``again_s``); seconds of
        greedy selection among all trials (``greedy_s``) and of the same by a plain NumPy loop
        (``plain_greedy_s``); seconds of the bootstrap of one model (``draws_s``) and of the same by
        a plain loop (``plain_draws_s``); the process's peak memory in MB after fusion
        (``peak_mb``), and how much fusion raised it (``own_mb``); the fused model's score P on the
        videos on which choices are made (``p_select``); and the number of steps of the greedy
        selection by task (``steps``).

    Raises:
        AssertionError: A plain NumPy loop gives another result than the project's code.
    """
    listing = make_listing(args.videos, args.frames)
    rows = np.flatnonzero(listing.video < args.videos)
    parts = {name: ("select", "confirm")[i % 2] for i, name in enumerate(listing.names)}
    parts[listing.names[-1]] = "train"
    written, _ = timed(lambda: write_trials(folder, listing, args.trials, rows))
    dataset = Dataset(str(folder), {"image_name": "{frame:05d}.jpg"})
    before = _peak_mb()
    fusion = SweepFusion(folder, dataset, listing, parts, FusionSection(steps=STEPS))
    finish_seconds, content = timed(fusion.finish)
    peak = _peak_mb()
    repeat_seconds, _ = timed(lambda: (fusion.member_signatures(), fusion.improve()))
    select = rows[listing.video[rows] % 2 == 0]
    labels, mask = listing.values[select], listing.mask[select]
    stored = [
        Predictions.load(trial / "predictions.parquet").outputs
        for trial in sorted((folder / "trials").iterdir())
    ]
    members = np.stack([outputs[listing.video[rows] % 2 == 0] for outputs in stored])
    greedy_seconds, selections = timed(
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
    plain_greedy_seconds, taken = timed(lambda: plain_greedy(members, labels, mask))
    for name, selection in selections.items():
        weights = np.bincount(taken[name][: len(selection.path)], minlength=len(members))
        np.testing.assert_array_equal(selection.fusion_weights, weights)
    sample = members[0], labels, mask, listing.video[select]
    draws_seconds, bootstrapped = timed(lambda: bootstrap(*sample))
    plain_draws_seconds, drawn = timed(lambda: plain_draws(*sample))
    np.testing.assert_allclose(bootstrapped["p_labelled"].draws, drawn, atol=1e-6)
    return {
        "written_s": written,
        "whole_s": finish_seconds,
        "again_s": repeat_seconds,
        "peak_mb": peak,
        "own_mb": peak - before,
        "greedy_s": greedy_seconds,
        "plain_greedy_s": plain_greedy_seconds,
        "draws_s": draws_seconds,
        "plain_draws_s": plain_draws_seconds,
        "p_select": content["rules"]["greedy"]["select"]["p"],
        "steps": {name: len(selection.path) for name, selection in selections.items()},
    }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def table(found: dict[str, Any]) -> str:
    """Return the seconds of fusion as a Markdown table, followed by a line about memory.

    Args:
        found: The dict that ``measure`` returns: seconds (keys that end with ``_s``) of fusion, of
            greedy selection and of the bootstrap alone, and of plain NumPy loops for these two
            steps; memory in MB (keys that end with ``_mb``).
    """
    return "\n".join(
        [
            "| | seconds | plain NumPy loop | ratio |",
            "|---|---:|---:|---:|",
            f"| fusion at a sweep's end, complete | {found['whole_s']:.1f} | | |",
            f"| fusion repeated without new trials | {found['again_s']:.2f} | | |",
            _row("greedy selection among all trials", found["greedy_s"], found["plain_greedy_s"]),
            _row("1,000 bootstrap draws of one model", found["draws_s"], found["plain_draws_s"]),
            f"\npeak memory {found['peak_mb']:.0f} MB, of which fusion {found['own_mb']:.0f} MB",
        ]
    )


def _row(title: str, ours: float, plain: float) -> str:
    return f"| {title} | {ours:.2f} | {plain:.1f} | {plain / ours:.1f} |"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure time and memory of fusion; print a table and one JSON line.

    Args:
        argv: Command-line arguments; those of the process if None.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--frames", type=int, default=27_000)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--folder", help="parent of the temporary folder")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(args, Path(folder))
    print(table(found))
    print(json.dumps({"benchmark": "fusion", "seed": SEED, **vars(args), **found}))


if __name__ == "__main__":
    main()
