"""Trained trials and their exported ensemble, on a small dataset with missing features."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save

from mtl.config import TrialConfig
from mtl.dataset import Dataset, Listing, write_dataset
from mtl.ensemble.folder import Files, pack_export
from mtl.ensemble.manifest import weights_path
from mtl.predictions.postprocess import Postprocessing, Smoothing
from mtl.sequences.feature_table import read_table
from mtl.sequences.join import join, part_of, trained_tasks, training_prior
from mtl.tasks import TASKS
from mtl.training.inference import ModelWeights, TrialData, predict_best
from mtl.training.trainer import Trainer
from tests.support.laws import config

WIDTHS = {"face": 3, "pose": 2}
SPLITS = ("train",) * 5 + ("validation",) * 3 + ("test",) * 2
NAMES = tuple(f"v{9 - number}" for number in range(len(SPLITS)))  # in reverse alphabetical order
WITHOUT_POSE, WITHOUT_ANY, WITH_HOLES = "v0", "v1", "v3"
DONE = Postprocessing(
    {"valence": Smoothing("box", 3), "expression": Smoothing("gaussian", 2)},
    tuple(np.linspace(-0.4, 0.4, 8).tolist()),
    tuple(np.linspace(0.3, 0.7, 12).tolist()),
)
SETTINGS: dict[str, dict[str, Any]] = {
    "recurrent": {"features": ["pose", "face"]},
    "attentive": {"features": ["face"], "sequence": {"frames": "all"}},
    "thinned": {"features": ["face", "pose"], "sequence": {"frame_stride": 2}},
    "few-tasks": {"features": ["pose", "face"], "tasks": ["expression", "valence"]},
}
ENCODERS = {"attentive": "transformer", "thinned": "lstm"}
COUNTS: dict[str, dict[str, float]] = {
    "recurrent": {"valence": 2, "action_units": 1.5},
    "attentive": {"valence": 1, "arousal": 3, "expression": 0.25},
    "thinned": {"action_units": 1, "arousal": 1},
    "few-tasks": {"expression": 0.5},
}


def listing(labels: bool = True, splits: tuple[str, ...] = SPLITS) -> Listing:
    """Return ten videos of different lengths with gaps between their listed frames."""
    random = np.random.default_rng(0)
    frames = [np.cumsum(random.integers(1, 4, 8 + 3 * (i % 5))) for i in range(len(NAMES))]
    order = [
        i for split in ("train", "validation", "test") for i in range(10) if splits[i] == split
    ]
    video = np.repeat(np.array(order, np.int32), [len(frames[i]) for i in order])
    values = random.integers(0, 2, (len(video), 15)).astype(np.float32)
    values[:, :2] = random.uniform(-1, 1, (len(video), 2))
    values[:, 2] = random.integers(0, 8, len(video))
    known = np.array([split != "test" for split in splits])[video] & labels
    mask = np.repeat(known[:, None], 15, axis=1)
    frame = np.concatenate([frames[i] for i in order]).astype(np.int32)
    return Listing(NAMES, splits, NAMES, video, frame, values * mask, mask)


def dataset(
    folder: Path, listed: Listing | None = None, sets: Iterable[str] = WIDTHS, wider: int = 0
) -> Dataset:
    """Write a dataset in which about half of the feature rows belong to no listed frame.

    Args:
        folder: Dataset directory to write.
        listed: Listing of the dataset; ``listing()`` if None.
        sets: Names of the feature sets.
        wider: Number of additional features in each set.
    """

    def block(name: str, features: str) -> tuple[str, np.ndarray, np.ndarray]:
        random = np.random.default_rng([int(name[1:]), WIDTHS.get(features, 0)])
        frames = np.arange(1, 70, dtype=np.int32)
        values = random.normal(3, 2, (len(frames), WIDTHS.get(features, 2) + wider))
        if name == WITH_HOLES and features == "pose":
            frames, values = frames[5:25:3], values[5:25:3]
        return name, frames, values.astype(np.float16)

    absent = {"face": {WITHOUT_ANY}, "pose": {WITHOUT_ANY, WITHOUT_POSE}}
    blocks = {
        features: [block(n, features) for n in sorted(NAMES) if n not in absent.get(features, ())]
        for features in sets
    }
    return write_dataset(folder, listed or listing(), blocks, sources={})


@dataclass(frozen=True)
class Trained:
    """Trained trial.

    Attributes:
        config: Config of the trial.
        epochs: Best epoch of each task.
        weights: Weights after each epoch.
        outputs: Predictions of all listed frames.
    """

    config: TrialConfig
    epochs: dict[str, int]
    weights: dict[int, ModelWeights]
    outputs: np.ndarray


def train(data: Dataset, name: str) -> Trained:
    """Train the trial of ``SETTINGS[name]``."""
    trial = config(ENCODERS.get(name, "gru"), **SETTINGS[name])
    known, sequence = data.listing(), trial.sequence
    listed = None if sequence.frames == "all" else known
    tables = [read_table(data, features, listed) for features in trial.features]
    joined = join(known, tables, sequence.frames, sequence.frame_stride)
    of = {s: [n for n, t in zip(known.names, known.splits, strict=True) if t == s] for s in SPLITS}
    parts = {"select": of["validation"], "whole": known.names}
    trial_data = TrialData(
        trained_tasks(trial.tasks, known),
        tuple(joined[video] for video in of["train"] if video in joined),
        {part: part_of(known, joined, videos) for part, videos in parts.items()},
        np.concatenate([table.mean for table in tables]),
        np.concatenate([table.std for table in tables]),
        training_prior(known),
    )
    trainer = Trainer(trial, trial_data)
    weights = {result.epoch: trainer.weights() for result in trainer.epochs()}
    epochs = trainer.learning_curve[-1].best_epochs
    outputs = predict_best(trial, trial_data, weights, epochs)["whole"]
    return Trained(trial, epochs, weights, outputs)


def export_plain(data: Dataset, trained: dict[str, Trained]) -> dict[str, Any]:
    """Return the content of ``model.json`` without the keys for format and files."""
    prior = training_prior(data.listing())
    return {
        "versions": {"torch": "0"},
        "dataset": data.hash,
        "features": WIDTHS,
        "image_name": data.info["image_name"],
        "prior": {name: prior[task.outputs].tolist() for name, task in TASKS.items()},
        "members": {
            name: {
                "config": trained[name].config.plain(),
                "weights": counts,
                "epochs": {task: trained[name].epochs[task] for task in counts},
            }
            for name, counts in COUNTS.items()
        },
        "postprocessing": asdict(DONE),
        "scores": {"select": {"fused": {"p_mtl": 1.0}}},
    }


def export_files(data: Dataset, trained: dict[str, Trained], **changes: Any) -> Files:
    """Return the files of an export; ``changes`` replace whole keys of its ``model.json``."""
    plain = {**export_plain(data, trained), **changes}
    weights = {
        weights_path(name, epoch): save(trained[name].weights[epoch])
        for name, counts in COUNTS.items()
        for epoch in {trained[name].epochs[task] for task in counts}
    }
    return pack_export(plain, {name: data.statistics(name) for name in WIDTHS}, weights)


def fused(trained: dict[str, Trained]) -> np.ndarray:
    """Return the weighted mean of the members' outputs, as a reference."""
    outputs = np.full_like(trained["recurrent"].outputs, np.nan)
    for name, task in TASKS.items():
        counts = {m: by_task[name] for m, by_task in COUNTS.items() if name in by_task}
        parts = [c * trained[m].outputs[:, task.outputs] for m, c in counts.items()]
        outputs[:, task.outputs] = sum(parts) / sum(counts.values())
    return outputs
