"""Why models stay below the demo's exact posterior: how their share of it grows with videos.

python benchmarks/ceiling.py [--videos 80 160 320 640] [--jobs 2]

The demo's generator as it is, with more videos of the same world, three seeds (``SEEDS``, fixed
before the first run). On each a GRU and a transformer of all three sets are trained, their mean is
post-processed by what pays on `select`, and its score on `confirm` is divided by that of the exact
posterior given all frames (the smoother), which knows the generator's constants and learns
nothing. Beside it: the exact posterior given past frames alone (the filter), all that a recurrent
encoder can reach before post-processing; and the GRU and the transformer alone, raw.
"""

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from mechanisms import JOINED
from over_seeds import mean_and_half
from whole_training import train

from mtl.evaluation.metrics import scores
from mtl.predictions.postprocess import choose
from mtl.predictions.table import Predictions
from mtl.sequences.join import training_prior
from mtl.synthetic import Demo
from mtl.synthetic import demo as generator
from mtl.synthetic.demo import CEILING_FILE, Planted, best_predictions, plant, write_planted
from mtl.synthetic.ornstein_uhlenbeck import _filter, decay
from sweeps.data.trial_data import SlotData
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.train import Files

SEEDS = (11, 22, 33)
VIDEOS = (80, 160, 320, 640)
ENCODERS = ("gru", "transformer")
TRAINING = ("training.epochs=20", "training.device=cpu", "head=mlp", "framework=share_bottom")
ROWS = {
    "fused": "their mean, post-processed",
    "gru": "GRU",
    "transformer": "transformer",
    "filter": "exact posterior, past frames alone",
}


def causal(
    features: np.ndarray, loadings: np.ndarray, frames: np.ndarray, seconds: np.ndarray
) -> Any:
    """The filtered path of ``mtl.synthetic.ornstein_uhlenbeck.smooth``, before smoothing."""
    return _filter(features @ loadings, loadings.T @ loadings, decay(frames, seconds))


def filtered(planted: Planted) -> Predictions:
    """The exact posterior's predictions of `validation` from each frame's past."""
    with patch.object(generator, "smooth", causal):
        return best_predictions(planted, "validation")


def shares(asked: tuple[int, int]) -> dict[str, float]:
    """Scores on `confirm` over that of the exact posterior there."""
    videos, seed = asked
    torch.set_num_threads(1)
    demo = replace(Demo(), videos=videos)
    planted = plant(demo, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "planted"
        dataset = write_planted(folder, planted, seed, demo)
        listing = dataset.listing()
        slot = SlotData(Files(dataset, listing), listing, divide(listing, 0.5, seed))
        outputs: dict[str, dict[str, np.ndarray]] = {}
        for encoder in ENCODERS:
            words = [*TRAINING, JOINED, f"encoder={encoder}", f"training.seed={seed}"]
            data = slot.of(config := compose(words))
            _, outputs[encoder] = train(config, data)
        select, confirm = data.parts["select"], data.parts["confirm"]
        where = {
            name: (listing.video[part.rows], listing.frame[part.rows])
            for name, part in (("select", select), ("confirm", confirm))
        }
        mean = {name: np.mean([o[name] for o in outputs.values()], axis=0) for name in where}
        labels = (select.labels, select.mask, *where["select"])
        found = choose(mean["select"], *labels, training_prior(listing))

        def score(rows: np.ndarray) -> float:
            value = scores(rows, confirm.labels, confirm.mask)["p_labelled"]
            assert value is not None
            return float(value)

        def exact(predictions: Predictions) -> np.ndarray:
            names = np.array(predictions.names)[predictions.video]
            row = {key: n for n, key in enumerate(zip(names, predictions.frame, strict=True))}
            video, frame = where["confirm"]
            keys = zip(np.array(listing.names)[video], frame, strict=True)
            return predictions.outputs[[row[key] for key in keys]]

        best = score(exact(Predictions.load(folder / CEILING_FILE)))
        return {
            "posterior": best,
            "fused": score(found(mean["confirm"], *where["confirm"])) / best,
            **{encoder: score(outputs[encoder]["confirm"]) / best for encoder in ENCODERS},
            "filter": score(exact(filtered(planted))) / best,
        }


def table(results: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """Shares as Markdown, a column for each number of videos."""
    lines = [
        "| share of the exact posterior | " + " | ".join(f"{n} videos" for n in results) + " |",
        "|---|" + "---:|" * len(results),
    ]
    for key, title in ROWS.items():
        cells = [mean_and_half([found[key] for found in own]) for own in results.values()]
        lines.append(f"| {title} | " + " | ".join(f"{m:.3f} ± {h:.3f}" for m, h in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, nargs="+", default=VIDEOS)
    parser.add_argument("--jobs", type=int, default=2)
    words = parser.parse_args()
    asked = [(videos, seed) for videos in words.videos for seed in SEEDS]
    results: dict[int, list[dict[str, float]]] = {videos: [] for videos in words.videos}
    with multiprocessing.get_context("spawn").Pool(words.jobs) as pool:
        for (videos, seed), found in zip(asked, pool.imap(shares, asked), strict=True):
            rounded = {key: round(value, 4) for key, value in found.items()}
            print(f"{videos} videos, seed {seed}: {rounded}", flush=True)
            results[videos].append(rounded)
    print(table(results))
    print(json.dumps({"benchmark": "ceiling", "seeds": SEEDS, "videos": results}))


if __name__ == "__main__":
    main()
