"""Scores of trained models relative to the best possible score on synthetic datasets.

python benchmarks/ceiling.py [--videos 80 160 320 640] [--jobs 2]

Synthetic datasets of each size are drawn with three seeds (``SEEDS``, fixed before the first run).
On each dataset a GRU and a transformer over all three feature sets are trained. The mean of the two
models' outputs is post-processed: smoothing, expression bias and action unit thresholds are applied
where they improve the score on `select` (validation videos on which choices are made). The score of
the result on `confirm` (validation videos held back for the final scores) is divided by the best
possible score. This is the score of the exact Bayesian posterior of the labels given the features
of all frames of a video (a Kalman smoother), computed with the constants from which the dataset was
drawn. Three other scores are divided by it for comparison: those of the GRU and of the transformer
without post-processing, and that of the exact posterior given only past and current frames (a
Kalman filter), the best that a recurrent encoder can reach without post-processing.
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
from sweeps.train import FeatureFiles

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
    """Run a Kalman filter over one video.

    The function has the same arguments as the Kalman smoother, so that it can replace the smoother.

    Legend: T frames, K dimensions of the latent state, F features.

    Args:
        features: Whitened features of one video, (T, F).
        loadings: Weight of each state dimension in each feature, (F, K).
        frames: Frame numbers, (T,).
        seconds: Time constant of each state dimension, in frames, (K,).

    Returns:
        Mean (T, K) and covariance (T, K, K) of the latent state of each frame, given the features
        of past and current frames.
    """
    return _filter(features @ loadings, loadings.T @ loadings, decay(frames, seconds))


def filtered(planted: Planted) -> Predictions:
    """Predict the validation frames of a synthetic dataset from past and current frames only.

    The predictions are the exact Bayesian posterior of the labels, computed by a Kalman filter with
    the constants from which the dataset was drawn.

    Args:
        planted: The synthetic dataset in memory.
    """
    with patch.object(generator, "smooth", causal):
        return best_predictions(planted, "validation")


def relative_scores(point: tuple[int, int]) -> dict[str, float]:
    """Draw a synthetic dataset, train a GRU and a transformer, and compare with the best score.

    The scores are those on `confirm` (validation videos held back for the final scores). The best
    possible score is that of the exact Bayesian posterior of the labels given all frames.

    Args:
        point: Tuple of the dataset's number of videos and of the seed.

    Returns:
        Dict with the best possible score under the key "posterior". Each other key has the score of
        one predictor divided by the best possible score: "gru", "transformer", "fused" (mean of
        these two models' outputs, post-processed), and "filter" (exact posterior given past and
        current frames only).
    """
    videos, seed = point
    torch.set_num_threads(1)
    demo = replace(Demo(), videos=videos)
    planted = plant(demo, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "planted"
        dataset = write_planted(folder, planted, seed, demo)
        listing = dataset.listing()
        slot = SlotData(FeatureFiles(dataset, listing), listing, divide(listing, 0.5, seed))
        outputs: dict[str, dict[str, np.ndarray]] = {}
        for encoder in ENCODERS:
            overrides = [*TRAINING, JOINED, f"encoder={encoder}", f"training.seed={seed}"]
            data = slot.for_trial(config := compose(overrides))
            _, outputs[encoder] = train(config, data)
        select, confirm = data.parts["select"], data.parts["confirm"]
        frames = {
            name: (listing.video[part.rows], listing.frame[part.rows])
            for name, part in (("select", select), ("confirm", confirm))
        }
        mean = {name: np.mean([o[name] for o in outputs.values()], axis=0) for name in frames}
        labels = (select.labels, select.mask, *frames["select"])
        postprocessing = choose(mean["select"], *labels, training_prior(listing))

        def score(rows: np.ndarray) -> float:
            value = scores(rows, confirm.labels, confirm.mask)["p_labelled"]
            assert value is not None
            return float(value)

        def exact(predictions: Predictions) -> np.ndarray:
            names = np.array(predictions.names)[predictions.video]
            row = {key: n for n, key in enumerate(zip(names, predictions.frame, strict=True))}
            video, frame = frames["confirm"]
            keys = zip(np.array(listing.names)[video], frame, strict=True)
            return predictions.outputs[[row[key] for key in keys]]

        posterior = score(exact(Predictions.load(folder / CEILING_FILE)))
        fused = postprocessing(mean["confirm"], *frames["confirm"])
        return {
            "posterior": posterior,
            "fused": score(fused) / posterior,
            **{encoder: score(outputs[encoder]["confirm"]) / posterior for encoder in ENCODERS},
            "filter": score(exact(filtered(planted))) / posterior,
        }


def table(results: Mapping[int, Sequence[Mapping[str, float]]]) -> str:
    """Return a Markdown table of models' scores divided by the best possible score.

    Each row is a model, each column a number of videos; the cells are means over seeds with 95 %
    intervals.

    Args:
        results: For each number of videos, one mapping per seed from the model (a key of ``ROWS``)
            to its score divided by the best possible score.
    """
    lines = [
        "| share of the exact posterior | " + " | ".join(f"{n} videos" for n in results) + " |",
        "|---|" + "---:|" * len(results),
    ]
    for key, title in ROWS.items():
        cells = [mean_and_half([r[key] for r in by_seed]) for by_seed in results.values()]
        lines.append(f"| {title} | " + " | ".join(f"{m:.3f} ± {h:.3f}" for m, h in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Compare models with the best possible score on synthetic data; print a table and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, nargs="+", default=VIDEOS)
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    points = [(videos, seed) for videos in args.videos for seed in SEEDS]
    results: dict[int, list[dict[str, float]]] = {videos: [] for videos in args.videos}
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for (videos, seed), result in zip(points, pool.imap(relative_scores, points), strict=True):
            rounded = {key: round(value, 4) for key, value in result.items()}
            print(f"{videos} videos, seed {seed}: {rounded}", flush=True)
            results[videos].append(rounded)
    print(table(results))
    print(json.dumps({"benchmark": "ceiling", "seeds": SEEDS, "videos": results}))


if __name__ == "__main__":
    main()
