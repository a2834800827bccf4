"""The zoo that the laws run over: small settings, models, videos and data from one seed.

A component's settings are those of its YAML, made small; so an entry that is new in a registry is
built, and held to every law, without a line here.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import yaml

from mtl.build_model import build_model
from mtl.config import TrialConfig, read_config
from mtl.losses.functions import LOSSES
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS, Framework
from mtl.models.heads import HEADS
from mtl.sequences.join import Part, Rows, VideoSequence
from mtl.tasks import LABEL_COLUMNS, OUTPUT_COLUMNS, TASKS
from mtl.training.inference import TrialData
from tests.support.covering import covering
from tests.support.paths import ROOT

# The order of a sum must not depend on how many cores are free.
torch.set_num_threads(1)

CONFIGS = ROOT / "sweeps" / "configs"
SMALL: dict[str, Any] = {"hidden": 8, "layers": 2, "heads": 2, "feedforward": 12, "widths": [6]}
WIDTH = 5
TOLERANCE = 1e-5

ENCODER_NAMES = tuple(ENCODERS)
CARRYING = tuple(name for name, encoder in ENCODERS.items() if encoder.carries_state)
MODELS = tuple(covering(ENCODERS, HEADS, FRAMEWORKS, pairs=True))
"""Encoder, head and framework of models: each pair of two of them at least once."""
FEW_MODELS = tuple(covering(ENCODERS, HEADS, FRAMEWORKS))
"""Encoder, head and framework of models: each of them at least once."""
LOSS_NAMES = tuple((kind, name) for kind, losses in LOSSES.items() for name in losses)
LOSS_OF_KIND = {kind: tuple(losses) for kind, losses in LOSSES.items()}


def component(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """What ``configs/<group>/<name>.yaml`` says, small and without dropout."""
    settings = _shipped(group, name)
    small = {key: value for key, value in SMALL.items() if key in settings}
    quiet = {"dropout": 0.0} if "dropout" in settings else {}
    return {**settings, **small, **quiet, **changes}


@cache
def _shipped(group: str, name: str) -> Mapping[str, Any]:
    settings: Mapping[str, Any] = yaml.safe_load((CONFIGS / group / f"{name}.yaml").read_text())
    return settings


def plain_config(
    encoder: str = "gru",
    head: str = "linear",
    framework: str = "share_encoder",
    /,
    dropout: float = 0.0,
    **sections: Any,
) -> dict[str, Any]:
    """A trial's plain settings; ``sections`` change ``optim``, ``encoder``, ... in places."""
    loss = {name: {"name": LOSS_OF_KIND[task.kind][0]} for name, task in TASKS.items()}
    plain: dict[str, Any] = {
        "features": ["set"],
        "tasks": list(TASKS),
        "sequence": {"frames": "listed", "frame_stride": 1, "window_frames": 4},
        "encoder": component("encoder", encoder, dropout=dropout),
        "head": component("head", head, dropout=dropout),
        "framework": component("framework", framework),
        "balancing": component("balancing", "fixed"),
        "loss": loss,
        "optim": {
            "name": "adam",
            "lr": 0.01,
            "weight_decay": 0.0,
            "batch_videos": 3,
            "warmup_epochs": 0.5,
            "decay": "cosine",
            "gradient_clip": 5.0,
        },
        "training": {"epochs": 3, "seed": 0, "device": "cpu", "precision": "float32"},
    }
    for name, change in sections.items():
        in_places = isinstance(change, dict) and (name == "optim" or "name" not in change)
        plain[name] = plain[name] | change if in_places else change
    return plain


def config(*names: str, **changes: Any) -> TrialConfig:
    """``plain_config`` typed."""
    return read_config(plain_config(*names, **changes))


def parameters(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """A component's keyword parameters, typed."""
    trial = read_config({**plain_config(), group: component(group, name, **changes)})
    found: dict[str, Any] = getattr(trial, group).parameters
    return found


def model(trial: TrialConfig, tasks: Sequence[str] = tuple(TASKS), seed: int = 0) -> Framework:
    """An untrained model over ``WIDTH`` features."""
    torch.manual_seed(seed)
    return build_model(trial, WIDTH, tasks)


def labels(frames: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all tasks and a mask that leaves about half; 0 where unknown."""
    values = np.zeros((frames, len(LABEL_COLUMNS)), np.float32)
    for task in TASKS.values():
        shape = values[:, task.labels].shape
        if task.kind == "regression":
            values[:, task.labels] = random.uniform(-1, 1, shape)
        else:
            high = task.width if task.kind == "multiclass" else 2
            values[:, task.labels] = random.integers(0, high, shape)
    mask = random.random(values.shape) < 0.5
    return np.where(mask, values, np.float32(0)), mask


def video(name: str, frames: int, random: np.random.Generator) -> VideoSequence:
    """A video with two feature sets: float16 rows that follow each other, and scattered uint8."""
    half = random.normal(size=(frames + 7, 3)).astype(np.float16)
    bytes_ = random.integers(0, 6, (2 * frames + 3, 2), np.uint8)
    numbers = np.cumsum(random.integers(1, 5, frames)).astype(np.int32)
    scattered = np.sort(random.permutation(len(bytes_))[:frames])
    features = (Rows(half, slice(4, 4 + frames)), Rows(bytes_, scattered))
    return VideoSequence(name, numbers, features, *labels(frames, random))


def videos(lengths: Sequence[int], seed: int = 0) -> tuple[VideoSequence, ...]:
    """Videos ``0``, ``1``, ...; each follows from the seed and its own place alone."""
    return tuple(
        video(str(i), frames, np.random.default_rng([seed, i])) for i, frames in enumerate(lengths)
    )


def part(sequences: Sequence[VideoSequence]) -> Part:
    """All frames of the sequences, listed in their order."""
    frames = sum(map(len, sequences))
    values = [np.zeros((0, len(LABEL_COLUMNS)), np.float32), *(s.labels for s in sequences)]
    mask = [np.zeros((0, len(LABEL_COLUMNS)), bool), *(s.mask for s in sequences)]
    rows = np.arange(frames)
    return Part(rows, tuple(sequences), rows, np.concatenate(values), np.concatenate(mask))


def data(
    train: Sequence[int] = (9, 4, 7, 3, 6),
    select: Sequence[int] = (8, 5),
    tasks: Sequence[str] = tuple(TASKS),
) -> TrialData:
    """What a trial is trained on: uneven videos, half of the labels missing."""
    parts = {"select": part(videos(select, seed=1)), "confirm": part(videos((6,), seed=2))}
    mean = np.linspace(-0.2, 2.5, WIDTH, dtype=np.float32)
    std = np.linspace(0.5, 2.0, WIDTH, dtype=np.float32)
    prior = np.linspace(0, 1, len(OUTPUT_COLUMNS), dtype=np.float32)
    return TrialData(tuple(tasks), videos(train), parts, mean, std, prior)


def inputs(
    lengths: Sequence[int], seed: int = 0, width: int = WIDTH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, T, F) and which frames are valid; padding holds noise, not 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), width, generator=generator)
    return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    """Copies of all parameters' gradients."""
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def features_of(video: VideoSequence, at: slice, zoo: TrialData) -> torch.Tensor:
    half, scattered = video.features
    assert isinstance(half.index, slice)
    values = [half.block[half.index][at], scattered.block[scattered.index][at]]
    joined = np.concatenate([v.astype(np.float32) for v in values], axis=1)
    return torch.from_numpy((joined - zoo.mean) / zoo.std)[None]
