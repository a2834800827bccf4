"""Linear probes of features from pretrained and random backbones, on synthetic faces.

    python benchmarks/probes.py [--seeds 61 62 63] [--out runs/probes]

For each seed ``make features`` draws synthetic faces, trains a masked autoencoder and a supervised
backbone on them, extracts the features of both, and runs a sweep whose trials use one of these
feature sets or both. Features of the same two backbones with random weights are extracted for
comparison. A linear probe of each of the four feature sets (ridge regression on single frames,
``benchmarks/ridge.py``) is fitted on the training videos and scored on ``confirm`` (validation
videos held back for the final scores). No training uses the labels of ``confirm``; the masked
autoencoder trains on the pictures of all splits without labels.

The scores of the probes, and the gains of a trained backbone over the same backbone with random
weights, are computed on the frames of all seeds together, with 95 % intervals from a bootstrap over
videos. These intervals do not cover other trainings of the backbones. The mean over seeds of each
gain has Student's 95 % interval. One seed takes about a quarter of an hour on two cores; after an
interruption the same command continues. Prints three tables and one JSON line.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from over_seeds import mean_and_half
from ridge import predict_validation

from mtl.dataset import open_dataset
from mtl.evaluation.bootstrap import BOUNDS, BootstrapScore, bootstrap
from sweeps.planning.plan import divide

ROOT = Path(__file__).parents[1]
SEEDS = (61, 62, 63)
CONFIRM, SEED = 0.5, 1234
"""Share of the validation videos that is held back for the final scores, and seed of the choice."""

SETS = {"mae": ("mae_vit_mini", "64"), "supervised": ("timm:resnet10t", "64")}
RANDOM = {name: f"random_{name}" for name in SETS}
SHOWN_SCORES = ("p_labelled", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")


@dataclass(frozen=True)
class Probed:
    """Predictions of a linear probe that is fitted on one feature set, with the true labels.

    The N rows are the frames of ``confirm`` (validation videos held back for the final scores).

    Attributes:
        outputs: Predicted outputs of all tasks, (N, 22).
        values: Labels, (N, 15).
        mask: True where a label is known, (N, 15).
        video: Number of each frame's video, (N,).
    """

    outputs: NDArray[np.float32]
    values: NDArray[np.float32]
    mask: NDArray[np.bool_]
    video: NDArray[np.int32]


def make(seed: int, out: Path) -> Path:
    """Create a dataset of synthetic faces with four feature sets, and return the dataset's folder.

    Two backbones are trained on the faces. The feature sets come from these two, and from the same
    two with random weights.

    Args:
        seed: Seed of the synthetic faces.
        out: Folder in which the dataset's folder is created.
    """
    folder = out / f"probes-{seed}"
    run(
        "make",
        "features",
        f"FACES={folder}",
        f"FACES_SEED={seed}",
        f"BIN={Path(sys.executable).parent}",
    )
    planted, features = folder / "planted", folder / "features"
    for name, (backbone, size) in SETS.items():
        model = ["--backbone", backbone, "--size", size, "--weights", "random"]
        run_program(
            "extract",
            "--images",
            planted / "cropped_aligned",
            *model,
            "--out",
            features / RANDOM[name],
        )
    sets = [f"{name}={features / name}" for name in (*SETS, *RANDOM.values())]
    lists = ["--annotations", planted / "annotations", "--subjects", planted / "subjects.csv"]
    data = folder / "all_features"
    run_program("prepare", *lists, "--features", *sets, "--out", data, "--overwrite")
    return data


def run_program(name: str, *arguments: object) -> None:
    """Run the program ``sweeps/<name>.py`` with command-line arguments; errors are raised."""
    run(sys.executable, ROOT / "sweeps" / f"{name}.py", *arguments)


def run(*command: object) -> None:
    """Run a command in the repository's root and send its output to standard error.

    Args:
        command: The program and its arguments.

    Raises:
        subprocess.CalledProcessError: The command ended with an error.
    """
    subprocess.run([str(part) for part in command], cwd=ROOT, stdout=sys.stderr, check=True)


def probe(data: Path, name: str) -> Probed:
    """Fit a linear probe of one feature set, and predict the videos held back for final scores.

    Args:
        data: Dataset directory.
        name: Name of the feature set.

    Returns:
        Predictions and true labels of the frames of these videos.
    """
    dataset = open_dataset(data)
    listing = dataset.listing()
    rows, outputs = predict_validation(dataset, listing, (), SEED, [name])
    parts = divide(listing, CONFIRM, SEED)
    confirm = np.array([part == "confirm" for part in (parts[n] for n in listing.names)])
    kept = confirm[listing.video[rows]]
    rows = rows[kept]
    return Probed(outputs[kept], listing.values[rows], listing.mask[rows], listing.video[rows])


def pooled(parts: Sequence[Probed]) -> dict[str, BootstrapScore]:
    """Return scores of a linear probe, computed on the frames of several seeds together.

    Each seed has videos of its own; the bootstrap draws from the videos of all seeds.

    Args:
        parts: For each seed, predictions and labels of a probe on the same kind of feature set.

    Returns:
        From the name of each score, such as ``p_labelled``, to the score and its bootstrap draws.
    """
    video = np.concatenate([part.video + 100_000 * n for n, part in enumerate(parts)])
    columns = [(part.outputs, part.values, part.mask) for part in parts]
    outputs, values, mask = (np.concatenate(column) for column in zip(*columns, strict=True))
    return bootstrap(outputs, values, mask, video)


def with_interval(score: BootstrapScore, kind: str) -> dict[str, Any]:
    """Return a score (or difference of scores) with a 95 % interval, rounded to 4 decimals.

    Args:
        score: The score or the difference of two scores, with its bootstrap.
        kind: "ccc", "f1" or "p" limits the interval to the metric's range; "difference" does not.

    Returns:
        Dict of the ``score`` and of the interval's two ends (``interval``).
    """
    low, high = score.interval(*BOUNDS[kind]) if kind in BOUNDS else score.interval()
    return {"score": round(score.score, 4), "interval": [round(low, 4), round(high, 4)]}


def compare(scores: Mapping[str, Mapping[str, BootstrapScore]]) -> dict[str, dict[str, Any]]:
    """Return scores of linear probes, and the gains of trained over random backbones.

    Args:
        scores: For each feature set, the scores by name of a linear probe on it.

    Returns:
        Nested dict: for each feature set, then for each score's name (such as ``ccc_valence``), a
        dict of the ``score`` and the 95 % ``interval``. Further keys "<set> - random_<set>" have
        dicts of the same form for gains: the score on the features of the trained backbone minus
        the score on those of the same backbone with random weights.
    """
    rows = {
        name: {
            key: with_interval(of_set[key], key.partition("_")[0])
            for key in SHOWN_SCORES
            if key in of_set
        }
        for name, of_set in scores.items()
    }
    for name, random in RANDOM.items():
        rows[f"{name} - {random}"] = {
            key: with_interval(scores[name][key] - scores[random][key], "difference")
            for key in SHOWN_SCORES
            if key in scores[name] and key in scores[random]
        }
    return rows


def gains_over_seeds(gains: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Return the mean gain in the challenge's score P over seeds, for each pair of feature sets.

    A pair is the feature set of a trained backbone and that of the same backbone with random
    weights; the gain is the score P of the first minus that of the second.

    Args:
        gains: For each pair, the gain of each seed.

    Returns:
        For each pair, a dict of the gains of all seeds (``seeds``), their ``mean``, and the 95 %
        ``interval`` of the mean by Student's t.
    """
    rows = {}
    for name, by_seed in gains.items():
        mean, half = mean_and_half(by_seed)
        interval = [round(mean - half, 4), round(mean + half, 4)]
        rows[name] = {"seeds": list(by_seed), "mean": round(mean, 4), "interval": interval}
    return rows


def sweep_scores(folder: Path) -> dict[str, Any]:
    """Return the scores of a sweep on the validation videos held back for the final scores.

    Args:
        folder: Run folder of the sweep.

    Returns:
        ``sets``: dict from each combination of feature sets that the sweep compares to a list of
        scores P: those of the best configuration with these sets, one per training seed;
        ``fused``: the score P of the fused model.
    """
    comparison = json.loads((folder / "report" / "comparison.json").read_text())
    scores = json.loads((folder / "scores.json").read_text())
    by_set = {sets: row["scores"] for sets, row in comparison["standings"]["all"].items()}
    return {"sets": by_set, "fused": scores["confirm"]["fused"]["p_labelled"]}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a Markdown table of linear probes' scores, with their 95 % intervals.

    Args:
        found: The dict that ``compare`` returns: for each row of the table (a feature set, or the
            gain of a trained over a random backbone) and each score's name, a dict of the
            ``score`` and the 95 % ``interval``.
    """
    lines = [
        f"| linear probe | {' | '.join(SHOWN_SCORES)} |",
        f"|---|{'---:|' * len(SHOWN_SCORES)}",
    ]
    for name, row in found.items():
        sign = "+" if " - " in name else ""
        cells = [
            f"{row[key]['score']:{sign}.3f} [{row[key]['interval'][0]:{sign}.3f}, "
            f"{row[key]['interval'][1]:{sign}.3f}]"
            if key in row
            else "-"
            for key in SHOWN_SCORES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Train backbones, score linear probes of their features, and print tables and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path("runs/probes"))
    args = parser.parse_args()
    names = [*SETS, *RANDOM.values()]
    probes: dict[str, list[Probed]] = {name: [] for name in names}
    sweeps = {}
    gains: dict[str, list[float]] = {}
    for seed in args.seeds:
        data = make(seed, args.out)
        for name in names:
            probes[name].append(probe(data, name))
        sweeps[seed] = sweep_scores(ROOT / "runs" / f"probes-{seed}")
        of_seed = compare({name: pooled(probes[name][-1:]) for name in names})
        p = {name: row["p_labelled"]["score"] for name, row in of_seed.items()}
        print(f"seed {seed}: {json.dumps(p)}")
        for name in filter(lambda name: " - " in name, p):
            gains.setdefault(name, []).append(p[name])
    found = compare({name: pooled(probes[name]) for name in names})
    print(table(found))
    by_seed = gains_over_seeds(gains)
    print("\n| gain in P | by seed | mean | over seeds, 95 % |\n|---|---|---:|---:|")
    for name, row in by_seed.items():
        seeds = ", ".join(f"{gain:+.3f}" for gain in row["seeds"])
        low, high = row["interval"]
        print(f"| {name} | {seeds} | {row['mean']:+.3f} | [{low:+.3f}, {high:+.3f}] |")
    print()
    print("| seed | sweep: P of each set's best config on confirm | fused |\n|---|---|---:|")
    for seed, sweep in sweeps.items():
        sets = ", ".join(f"{name} {np.mean(p):.3f}" for name, p in sweep["sets"].items())
        print(f"| {seed} | {sets} | {sweep['fused']:.3f} |")
    print(json.dumps({"benchmark": "probes", "probes": found, "gains": by_seed, "sweeps": sweeps}))


if __name__ == "__main__":
    main()
