"""Comparison of a fused model's reported confidence interval with its score on unseen videos.

python benchmarks/resplits.py --data DIR [--splits 10] [--trials 12] [--out runs/resplits]

The dataset is studyforrest with the cue features, or any dataset with the same feature sets. A
re-split is a new random division of the dataset's videos by subject into train, validation and
held-back videos. There are as many validation videos as in the dataset, and half as many held-back
ones; the dataset's unlabelled test videos are left out. The held-back videos become the test split
of a new dataset that lacks their labels. ``sweeps/run.py`` runs a sweep on this dataset, fuses the
trials, and reports the fused model's score with a 95 % interval on `confirm` (validation videos
on which nothing is chosen). Afterwards the same model's predictions for the held-back videos are
scored with the labels of the source dataset.

The score is the sweep's ``p_labelled``, the sum over the tasks that have labels in the scored
videos; the table shows the number of these tasks. The held-back videos are themselves a small
sample, so fewer than 95 % of the intervals can be expected to contain their score. The table
therefore also shows the difference between the two scores divided by the difference's standard
error, from the jackknife errors of both scores: 95 % of these values should be at most 1.96.

The result of a finished re-split is kept in ``--out`` and not computed again. A re-split takes 1 to
2 minutes on 2 cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mtl.dataset import SPLITS, Dataset, Listing, open_dataset, read_features, write_dataset
from mtl.errors import InputError
from mtl.evaluation.bootstrap import bootstrap
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions
from mtl.whole_files import write_json
from sweeps.cli.run_program import run_program
from sweeps.planning.plan import divide
from sweeps.search_file import load

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "sweeps" / "configs" / "spaces" / "studyforrest_cues.yaml"
SEED = 17
WITHIN = 1.96
"""Number of standard errors that 95 % of normally distributed deviations do not exceed."""

SCORES = ("ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")


def draw_split(listing: Listing, split: int) -> dict[str, str]:
    """Draw a new split for each labelled video; all videos of a subject get the same split.

    Args:
        listing: Videos, splits and labels of the source dataset.
        split: Number that seeds the draw.

    Returns:
        From each video's name to its new split: "train", "validation" or "test" (to hold back).
        Test videos of the source dataset are left out.
    """
    subject_of = {
        name: subject
        for name, subject, old in zip(listing.names, listing.subjects, listing.splits, strict=True)
        if old != "test"
    }
    validation = listing.splits.count("validation")
    wanted = {"test": validation // 2, "validation": validation}
    videos, part_of = Counter(subject_of.values()), {}
    taken: Counter[str] = Counter()
    for subject in np.random.default_rng([SEED, split]).permutation(sorted(videos)):
        part = next((part for part in wanted if taken[part] < wanted[part]), "train")
        part_of[subject] = part
        taken[part] += videos[subject]
    return {name: part_of[subject] for name, subject in subject_of.items()}


def resplit(listing: Listing, split_of: Mapping[str, str]) -> Listing:
    """Return a copy of a listing (videos, frames and labels) with other splits of the videos.

    Videos that become test videos lose their labels.

    Args:
        listing: The listing to copy.
        split_of: New split by video name; other videos are left out.
    """
    kept = [place for place, name in enumerate(listing.names) if name in split_of]
    names = tuple(listing.names[place] for place in kept)
    splits = tuple(split_of[name] for name in names)
    place_of = np.full(len(listing.names), -1, np.int32)
    place_of[kept] = np.arange(len(kept))
    rank = np.array([SPLITS.index(split) for split in splits])
    rows = np.flatnonzero(place_of[listing.video] >= 0)
    rows = rows[np.argsort(rank[place_of[listing.video[rows]]], kind="stable")]
    video = place_of[listing.video[rows]]
    mask = listing.mask[rows] & (rank[video] != SPLITS.index("test"))[:, None]
    values = np.where(mask, listing.values[rows], np.float32(0))
    subjects = tuple(listing.subjects[place] for place in kept)
    return Listing(names, splits, subjects, video, listing.frame[rows], values, mask)


def write_split(source: Dataset, split: int, out: Path) -> Dataset:
    """Write a copy of a dataset with newly drawn splits, or open the copy if it exists.

    Args:
        source: The dataset to copy.
        split: Number that seeds the draw of the splits.
        out: Dataset directory to write.
    """
    if out.exists():
        return open_dataset(out)
    listing = source.listing()
    features = {n: read_features(f"{source.address}/features/{n}") for n in source.feature_sets()}
    return write_dataset(
        out,
        resplit(listing, draw_split(listing, split)),
        features,
        image_name=source.info["image_name"],
        sources={"resplit of": source.hash, "seed": SEED, "split": split},
    )


def sweep(data: Path, name: str, trials: int, out: Path) -> Path:
    """Run ``sweeps/run.py`` on one dataset and return the sweep's run folder.

    Args:
        data: Dataset directory.
        name: Name of the sweep.
        trials: Number of trials.
        out: Folder in which the sweep runs and writes its log.

    Raises:
        InputError: The sweep ended with an exit code other than 0.
    """
    program = [sys.executable, str(ROOT / "sweeps" / "run.py"), "--space", str(SPACE)]
    command = [*program, f"data={data.resolve()}", f"name={name}", f"search.trials={trials}"]
    log = out / f"{name}.log"
    # subprocess.run() would kill the sweep after Ctrl-C, before it can end cleanly.
    with (
        log.open("a") as stream,
        subprocess.Popen(command, cwd=out, stdout=stream, stderr=stream) as process,
    ):
        code = process.wait()
    if code:
        raise InputError(f"the sweep {name} ended with exit code {code}: see {log}")
    return out / "runs" / name


def score(predictions: Predictions, truth: Listing, videos: Collection[str]) -> dict[str, Any]:
    """Score a model's predictions on all annotated frames of some videos.

    Args:
        predictions: The model's predictions, in any order.
        truth: Videos, frames and labels.
        videos: Names of the videos to score.

    Returns:
        The challenge's score P over the tasks that have labels in these videos (``p_labelled``),
        the jackknife standard error of this score (``error``), the number of these tasks
        (``tasks``), and the number of videos (``videos``).
    """
    included = np.array([name in videos for name in truth.names])
    rows = np.flatnonzero(included[truth.video])
    keys = zip(predictions.video.tolist(), predictions.frame.tolist(), strict=True)
    row_of = {(predictions.names[video], frame): row for row, (video, frame) in enumerate(keys)}
    listed = zip(truth.video[rows].tolist(), truth.frame[rows].tolist(), strict=True)
    outputs = predictions.outputs[[row_of[truth.names[video], frame] for video, frame in listed]]
    labelled = outputs, truth.values[rows], truth.mask[rows]
    by_name = scores(*labelled)
    return {
        "p_labelled": by_name["p_labelled"],
        "error": bootstrap(*labelled, truth.video[rows])["p_labelled"].standard_error(),
        "tasks": sum(by_name[name] is not None for name in SCORES),
        "videos": len(videos),
    }


def compare(folder: Path, written: Listing, truth: Listing) -> dict[str, Any]:
    """Compare a fused model's reported score with its score on held-back videos.

    Args:
        folder: Run folder of the sweep.
        written: Videos, splits and labels of the sweep's dataset, without the held-back labels.
        truth: Videos and labels of the source dataset, with all labels.

    Returns:
        ``select``: score on the validation videos on which choices were made. ``confirm``: dict for
        the other validation videos, with the score (``p_labelled``), the ends of its 95 % interval
        (``interval``), its standard error (``error``), and the numbers of scored tasks (``tasks``)
        and of videos (``videos``). ``held_back``: dict for the held-back videos with the same keys
        except ``interval``. ``inside``: True if the interval contains the held-back score.
        ``errors_apart``: absolute difference of the scores of ``confirm`` and ``held_back``,
        divided by the standard error of this difference.
    """
    reported = json.loads((folder / "scores.json").read_text())
    search = load(folder / "space.yaml").search
    parts = divide(written, search.confirm, search.seed)
    predictions = Predictions.load(folder / "fusion" / "predictions.parquet")
    confirm, held = (
        score(predictions, truth, {name for name, p in parts.items() if p == part})
        for part in ("confirm", "test")
    )
    fused = reported["confirm"]["fused"]
    assert np.isclose(confirm["p_labelled"], fused["p_labelled"]), "other frames were scored"
    low, high = fused["interval"]["p_labelled"]
    difference = held["p_labelled"] - confirm["p_labelled"]
    return {
        "select": reported["select"]["fused"]["p_labelled"],
        "confirm": {**confirm, "interval": [low, high]},
        "held_back": held,
        "inside": bool(low <= held["p_labelled"] <= high),
        "errors_apart": abs(difference) / float(np.hypot(confirm["error"], held["error"])),
    }


def run_split(source: Dataset, split: int, trials: int, out: Path) -> dict[str, Any]:
    """Divide a dataset anew, run a sweep on it, and compare the fused model's scores.

    The scores are those on the sweep's validation videos and on held-back videos. A result that is
    stored with the same settings is returned without a sweep.

    Args:
        source: The dataset to divide anew.
        split: Number of the new division, which seeds the draw.
        trials: Number of trials of the sweep.
        out: Folder for datasets, sweeps and results.

    Returns:
        Dict of the settings (``split``, ``seed``, ``trials``, and ``data``: hash of the source
        dataset), of all keys of the dict that ``compare`` returns (``select``, ``confirm``,
        ``held_back``, ``inside``, ``errors_apart``), and of the duration in ``seconds``.
    """
    name = f"resplit_{split}"
    file = out / f"{name}.json"
    settings = {"split": split, "seed": SEED, "trials": trials, "data": source.hash}
    if file.exists():
        stored: dict[str, Any] = json.loads(file.read_text())
        if settings.items() <= stored.items():
            return stored
    started = time.monotonic()
    dataset = write_split(source, split, out / "datasets" / name)
    written = dataset.listing()
    videos = ", ".join(f"{written.splits.count(part)} {part}" for part in SPLITS)
    print(f"split {split}: sweep of {trials} trials on {videos} (held back) videos", flush=True)
    folder = sweep(Path(dataset.address), name, trials, out)
    comparison = compare(folder, written, source.listing())
    result = {**settings, **comparison, "seconds": round(time.monotonic() - started)}
    write_json(file, result)
    shutil.rmtree(dataset.address)  # it is as large as the source and can be written again
    return result


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of a fused model's scores in re-splits (new divisions of a dataset).

    Args:
        results: For each re-split, the dict that ``run_split`` returns: scores on validation and on
            held-back videos, and the difference of these scores in standard errors.
    """
    lines = [
        "| split | select | confirm | held back | inside | errors apart | tasks | seconds |",
        "|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for result in results:
        confirm, held = result["confirm"], result["held_back"]
        low, high = confirm["interval"]
        lines.append(
            f"| {result['split']} | {result['select']:.3f} | "
            f"{confirm['p_labelled']:.3f} [{low:.3f}, {high:.3f}] | {held['p_labelled']:.3f} | "
            f"{'yes' if result['inside'] else 'no'} | {result['errors_apart']:.2f} | "
            f"{confirm['tasks']}, {held['tasks']} | {result['seconds']} |"
        )
    return "\n".join(lines)


def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarise the results of all re-splits (new divisions of a dataset's videos).

    Args:
        results: For each re-split, the dict that ``run_split`` returns: the fused model's score on
            ``confirm`` videos with its 95 % interval, the score on held-back videos, and the
            difference of these scores in standard errors.

    Returns:
        Number of re-splits (``splits``), and of those in which the held-back score is inside the
        interval (``inside``) or at most 1.96 standard errors from the score on ``confirm``
        (``within_errors``); mean width of the intervals (``mean_width``); and mean scores on the
        three kinds of videos (``mean_select``, ``mean_confirm``, ``mean_held_back``).
    """
    ends = np.array([result["confirm"]["interval"] for result in results])
    return {
        "splits": len(results),
        "inside": sum(result["inside"] for result in results),
        "within_errors": sum(result["errors_apart"] <= WITHIN for result in results),
        "mean_width": float(np.mean(ends[:, 1] - ends[:, 0])),
        "mean_select": float(np.mean([result["select"] for result in results])),
        "mean_confirm": float(np.mean([result["confirm"]["p_labelled"] for result in results])),
        "mean_held_back": float(np.mean([r["held_back"]["p_labelled"] for r in results])),
    }


def main() -> None:
    """Run a sweep on each re-split of a dataset; print a table of scores and a JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="a dataset directory or address")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/resplits"))
    args = parser.parse_args()
    source = open_dataset(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    results = []
    for split in range(args.splits):
        results.append(run_split(source, split, args.trials, args.out))
        print(table(results[-1:]).splitlines()[-1], flush=True)
    counted = summary(results)
    print(f"\n{table(results)}\n")
    print(
        f"held-back score inside the interval: {counted['inside']} of {counted['splits']} "
        f"(mean width {counted['mean_width']:.3f})"
    )
    print(f"within {WITHIN} standard errors: {counted['within_errors']} of {counted['splits']}")
    print(json.dumps({"benchmark": "resplits", "seed": SEED, **counted, "results": results}))


if __name__ == "__main__":
    run_program(main)
