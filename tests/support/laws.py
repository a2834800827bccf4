"""Small configs, models, videos and data for tests that run over all registries.

The settings of a component are those of its YAML file, made small. A new entry of a registry is
therefore covered by these tests without changes in this module.
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

# With several threads the order of summation, and thus rounding, depends on the number of cores.
torch.set_num_threads(1)

CONFIGS = ROOT / "sweeps" / "configs"
SMALL: dict[str, Any] = {"hidden": 8, "layers": 2, "heads": 2, "feedforward": 12, "widths": [6]}
WIDTH = 5
TOLERANCE = 1e-5

ENCODER_NAMES = tuple(ENCODERS)
STATEFUL_ENCODERS = tuple(name for name, encoder in ENCODERS.items() if encoder.carries_state)
MODELS = tuple(covering(ENCODERS, HEADS, FRAMEWORKS, pairs=True))
"""Encoder, head and framework of models: each pair of two of them at least once."""
FEW_MODELS = tuple(covering(ENCODERS, HEADS, FRAMEWORKS))
"""Encoder, head and framework of models: each of them at least once."""
LOSS_NAMES = tuple((kind, name) for kind, losses in LOSSES.items() for name in losses)
LOSS_OF_KIND = {kind: tuple(losses) for kind, losses in LOSSES.items()}


def component(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """Return the settings in ``configs/<group>/<name>.yaml``, made small and without dropout."""
    settings = _shipped(group, name)
    small = {key: value for key, value in SMALL.items() if key in settings}
    no_dropout = {"dropout": 0.0} if "dropout" in settings else {}
    return {**settings, **small, **no_dropout, **changes}


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
    """Return a trial's config as a plain dict.

    Args:
        encoder: Name of the encoder.
        head: Name of the head.
        framework: Name of the framework.
        dropout: Dropout of encoder and head.
        sections: Changes to sections such as ``optim``; a dict with a ``name`` replaces its section
            (except ``optim``), any other dict is merged into it.
    """
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
            "warmup_steps": None,
            "lr_reference_width": None,
        },
        "training": {"epochs": 3, "seed": 0, "device": "cpu", "precision": "float32"},
    }
    for name, change in sections.items():
        merge = isinstance(change, dict) and (name == "optim" or "name" not in change)
        plain[name] = plain[name] | change if merge else change
    return plain


def config(*names: str, **changes: Any) -> TrialConfig:
    """Return ``plain_config`` as a typed config."""
    return read_config(plain_config(*names, **changes))


def parameters(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """Return a component's keyword parameters with their types."""
    trial = read_config({**plain_config(), group: component(group, name, **changes)})
    typed: dict[str, Any] = getattr(trial, group).parameters
    return typed


def model(trial: TrialConfig, tasks: Sequence[str] = tuple(TASKS), seed: int = 0) -> Framework:
    """Build an untrained model over ``WIDTH`` features."""
    torch.manual_seed(seed)
    return build_model(trial, WIDTH, tasks)


def labels(frames: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw labels of all tasks and the mask of known labels, about half; unknown labels are 0."""
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
    """Draw a video with two feature sets: consecutive float16 rows and scattered uint8 rows."""
    half = random.normal(size=(frames + 7, 3)).astype(np.float16)
    bytes_ = random.integers(0, 6, (2 * frames + 3, 2), np.uint8)
    numbers = np.cumsum(random.integers(1, 5, frames)).astype(np.int32)
    scattered = np.sort(random.permutation(len(bytes_))[:frames])
    features = (Rows(half, slice(4, 4 + frames)), Rows(bytes_, scattered))
    return VideoSequence(name, numbers, features, *labels(frames, random))


def videos(lengths: Sequence[int], seed: int = 0) -> tuple[VideoSequence, ...]:
    """Draw videos ``0``, ``1``, ... of these lengths; each depends on the seed and its number."""
    return tuple(
        video(str(i), frames, np.random.default_rng([seed, i])) for i, frames in enumerate(lengths)
    )


def part(sequences: Sequence[VideoSequence]) -> Part:
    """Return a part that lists all frames of the sequences, in order."""
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
    """Return a trial's data: videos of different lengths, half of the labels missing."""
    parts = {"select": part(videos(select, seed=1)), "confirm": part(videos((6,), seed=2))}
    mean = np.linspace(-0.2, 2.5, WIDTH, dtype=np.float32)
    std = np.linspace(0.5, 2.0, WIDTH, dtype=np.float32)
    prior = np.linspace(0, 1, len(OUTPUT_COLUMNS), dtype=np.float32)
    return TrialData(tuple(tasks), videos(train), parts, mean, std, prior)


def inputs(
    lengths: Sequence[int], seed: int = 0, width: int = WIDTH
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw features (B, T, F) and their valid mask (B, T); padding is noise instead of 0."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), width, generator=generator)
    return x, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def gradients(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return copies of the gradients of all parameters."""
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def features_of(video: VideoSequence, at: slice, zoo: TrialData) -> torch.Tensor:
    """Return the z-scored features of some frames of a video, (1, T, F)."""
    half, scattered = video.features
    assert isinstance(half.index, slice)
    values = [half.block[half.index][at], scattered.block[scattered.index][at]]
    joined = np.concatenate([v.astype(np.float32) for v in values], axis=1)
    return torch.from_numpy((joined - zoo.mean) / zoo.std)[None]
