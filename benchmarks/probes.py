"""What pretraining is worth: linear probes of trained and of random features, on planted faces.

    python benchmarks/probes.py [--seeds 61 62 63] [--out runs/probes]

For each seed ``make features`` plants faces, trains a masked autoencoder and a supervised backbone
on them, extracts the features of both and sweeps over each set and both together. Beside them the
same two backbones are extracted as they start, at random. Each set is probed by ridge regression on
single frames (``benchmarks/ridge.py``): fitted on training videos, scored on ``confirm``, whose
labels nothing saw (the masked autoencoder trains on the pictures of all splits, without labels).
Scores and differences are of the predictions of all seeds pooled, with 95 % intervals over all
their videos, for these trainings as they are; then each gain's mean over the seeds, with Student's
interval over them. About a quarter of an hour a seed on two cores; the same command goes on after
an interruption. Prints three tables and one JSON line.
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
CONFIRM, SEED = 0.5, 1234  # the division of the sweeps
SETS = {"mae": ("mae_vit_mini", "64"), "supervised": ("timm:resnet10t", "64")}
RANDOM = {name: f"random_{name}" for name in SETS}
SHOWN = ("p_labelled", "ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")


@dataclass(frozen=True)
class Probed:
    """What regressions on one feature set say of ``confirm`` (N frames), and its labels."""

    outputs: NDArray[np.float32]
    values: NDArray[np.float32]
    mask: NDArray[np.bool_]
    video: NDArray[np.int32]


def make(seed: int, out: Path) -> Path:
    """Run everything that comes before the probes; the dataset with the four feature sets."""
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
        words = ["--backbone", backbone, "--size", size, "--weights", "random"]
        run_program(
            "extract",
            "--images",
            planted / "cropped_aligned",
            *words,
            "--out",
            features / RANDOM[name],
        )
    sets = [f"{name}={features / name}" for name in (*SETS, *RANDOM.values())]
    lists = ["--annotations", planted / "annotations", "--subjects", planted / "subjects.csv"]
    data = folder / "all_features"
    run_program("prepare", *lists, "--features", *sets, "--out", data, "--overwrite")
    return data


def run_program(name: str, *words: object) -> None:
    """One of the project's programs."""
    run(sys.executable, ROOT / "sweeps" / f"{name}.py", *words)


def run(*words: object) -> None:
    """A command, its output to standard error."""
    subprocess.run([str(word) for word in words], cwd=ROOT, stdout=sys.stderr, check=True)


def probe(data: Path, name: str) -> Probed:
    """A feature set's linear probe on the videos that nothing was chosen on."""
    dataset = open_dataset(data)
    listing = dataset.listing()
    rows, outputs = predict_validation(dataset, listing, (), SEED, [name])
    parts = divide(listing, CONFIRM, SEED)
    confirm = np.array([part == "confirm" for part in (parts[n] for n in listing.names)])
    kept = confirm[listing.video[rows]]
    at = rows[kept]
    return Probed(outputs[kept], listing.values[at], listing.mask[at], listing.video[at])


def pooled(parts: Sequence[Probed]) -> dict[str, BootstrapScore]:
    """The scores of several seeds' predictions together, each seed's videos its own."""
    video = np.concatenate([part.video + 100_000 * n for n, part in enumerate(parts)])
    columns = [(part.outputs, part.values, part.mask) for part in parts]
    outputs, values, mask = (np.concatenate(column) for column in zip(*columns, strict=True))
    return bootstrap(outputs, values, mask, video)


def shown(score: BootstrapScore, kind: str) -> dict[str, Any]:
    """A score, or a difference, and its interval."""
    low, high = score.interval(*BOUNDS[kind]) if kind in BOUNDS else score.interval()
    return {"score": round(score.score, 4), "interval": [round(low, 4), round(high, 4)]}


def compare(scores: Mapping[str, Mapping[str, BootstrapScore]]) -> dict[str, dict[str, Any]]:
    """Each set's scores, and each trained one's gain over the same backbone at random."""
    found = {
        name: {key: shown(own[key], key.partition("_")[0]) for key in SHOWN if key in own}
        for name, own in scores.items()
    }
    for name, random in RANDOM.items():
        found[f"{name} - {random}"] = {
            key: shown(scores[name][key] - scores[random][key], "difference")
            for key in SHOWN
            if key in scores[name] and key in scores[random]
        }
    return found


def gained(gains: Mapping[str, Sequence[float]]) -> dict[str, dict[str, Any]]:
    """Each trained set's gains of P by seed, their mean and its interval."""
    found = {}
    for name, each in gains.items():
        mean, half = mean_and_half(each)
        interval = [round(mean - half, 4), round(mean + half, 4)]
        found[name] = {"seeds": list(each), "mean": round(mean, 4), "interval": interval}
    return found


def swept(folder: Path) -> dict[str, Any]:
    """What the sweep over each set and both together came to, on ``confirm``."""
    comparison = json.loads((folder / "report" / "comparison.json").read_text())
    whole = json.loads((folder / "scores.json").read_text())
    by_set = {way: found["scores"] for way, found in comparison["standings"]["all"].items()}
    return {"sets": by_set, "fused": whole["confirm"]["fused"]["p_labelled"]}


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown, a row for each set and difference."""
    lines = [f"| linear probe | {' | '.join(SHOWN)} |", f"|---|{'---:|' * len(SHOWN)}"]
    for name, row in found.items():
        sign = "+" if " - " in name else ""
        cells = [
            f"{row[key]['score']:{sign}.3f} [{row[key]['interval'][0]:{sign}.3f}, "
            f"{row[key]['interval'][1]:{sign}.3f}]"
            if key in row
            else "-"
            for key in SHOWN
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--out", type=Path, default=Path("runs/probes"))
    words = parser.parse_args()
    names = [*SETS, *RANDOM.values()]
    probes: dict[str, list[Probed]] = {name: [] for name in names}
    sweeps = {}
    gains: dict[str, list[float]] = {}
    for seed in words.seeds:
        data = make(seed, words.out)
        for name in names:
            probes[name].append(probe(data, name))
        sweeps[seed] = swept(ROOT / "runs" / f"probes-{seed}")
        one = compare({name: pooled(probes[name][-1:]) for name in names})
        p = {name: own["p_labelled"]["score"] for name, own in one.items()}
        print(f"seed {seed}: {json.dumps(p)}")
        for name in filter(lambda name: " - " in name, p):
            gains.setdefault(name, []).append(p[name])
    found = compare({name: pooled(probes[name]) for name in names})
    print(table(found))
    by_seed = gained(gains)
    print("\n| gain of P | by seed | mean | over seeds, 95 % |\n|---|---|---:|---:|")
    for name, own in by_seed.items():
        seeds = ", ".join(f"{gain:+.3f}" for gain in own["seeds"])
        low, high = own["interval"]
        print(f"| {name} | {seeds} | {own['mean']:+.3f} | [{low:+.3f}, {high:+.3f}] |")
    print()
    print("| seed | sweep: P of each set's best config on confirm | fused |\n|---|---|---:|")
    for seed, of in sweeps.items():
        sets = ", ".join(f"{way} {np.mean(scores):.3f}" for way, scores in of["sets"].items())
        print(f"| {seed} | {sets} | {of['fused']:.3f} |")
    print(json.dumps({"benchmark": "probes", "probes": found, "gains": by_seed, "sweeps": sweeps}))


if __name__ == "__main__":
    main()
