"""Functions that each DDP worker, and a single worker for comparison, runs in the worker tests."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from mtl.config import TrialConfig
from mtl.errors import TrainingError
from mtl.losses.balancing import BALANCINGS, GradientBalancing
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS
from mtl.models.heads import HEADS
from mtl.optimisation.checkpoint import unpack
from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.pretraining.config import MAEConfig
from mtl.pretraining.objectives import Reconstruction
from mtl.pretraining.pretrainer import Pretrainer
from mtl.strict import validate_as
from mtl.tasks import TASKS
from mtl.training import inference
from mtl.training.inference import TrialData, predict, predict_best
from mtl.training.trainer import EpochResult, Trainer
from tests.support.covering import covering
from tests.support.laws import (
    CONFIGS,
    ENCODER_NAMES,
    LOSS_OF_KIND,
    STATEFUL_ENCODERS,
    component,
    config,
    data,
    part,
    videos,
)

STEPS = 20
LENGTHS = (41, 4, 7, 3, 6, 2)
SELECT = (9, 5, 14, 6)
CPU = torch.device("cpu")


def uneven() -> TrialData:
    """Return data with valence labels only in the first video, expression in one frame only."""
    zoo = data(LENGTHS, SELECT)
    masks = [video.mask.copy() for video in zoo.train]
    for mask in masks:
        mask[:, TASKS["expression"].labels] = False
    for mask in masks[1:]:
        mask[:, TASKS["valence"].labels] = False
    masks[-1][-1, TASKS["expression"].labels] = True
    train = tuple(replace(v, mask=m) for v, m in zip(zoo.train, masks, strict=True))
    return replace(zoo, train=train)


def without_times(result: EpochResult) -> dict[str, Any]:
    """Return an epoch's results without its times."""
    return {k: v for k, v in asdict(result).items() if k not in ("seconds", "data_seconds")}


def arrays(weights: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return copies of tensors as NumPy arrays."""
    return {name: value.detach().numpy().copy() for name, value in weights.items()}


# Complete training runs


def setting(
    *names: str,
    loss: int = 0,
    lanes: int = 3,
    balancing: str = "fixed",
    precision: str = "float32",
) -> TrialConfig:
    """Return a config in which each task has its loss of this index, or its last one."""
    losses = {name: LOSS_OF_KIND[task.kind] for name, task in TASKS.items()}
    epochs = 2 if lanes == 1 or ENCODERS[names[0]].carries_state else 4
    return config(
        *names,
        loss={name: known[min(loss, len(known) - 1)] for name, known in losses.items()},
        balancing=component("balancing", balancing),
        optim={"batch_videos": lanes, "gradient_clip": 0.5},
        training={"precision": precision, "epochs": epochs},
    )


LOSSES = range(max(map(len, LOSS_OF_KIND.values())))
STATELESS_ENCODERS = [name for name in ENCODERS if name not in STATEFUL_ENCODERS]
GRADIENT_BALANCINGS = [n for n, kind in BALANCINGS.items() if issubclass(kind, GradientBalancing)]

RUNS = {
    **{
        f"{encoder}-{head}-{lanes}_lanes": setting(encoder, head, loss=loss, lanes=lanes)
        for encoder, head, lanes, loss in covering(ENCODERS, HEADS, (1, 3), (0, 1))
    },
    # Each framework with an encoder that carries its state and with one that does not. In float32,
    # rounding changes parameters that few labels train (here the expression's) by up to 2e-5,
    # because Adam's steps do not shrink with the gradient.
    **{
        f"{encoder}-{head}-{framework}-loss_{loss}-{balancing}-float64": setting(
            encoder, head, framework, loss=loss, lanes=4, balancing=balancing, precision="float64"
        )
        for encoders in (STATEFUL_ENCODERS, STATELESS_ENCODERS)
        for encoder, head, framework, loss, balancing in covering(
            encoders, HEADS, FRAMEWORKS, LOSSES, BALANCINGS
        )
    },
    # Each framework with each balancing of gradients, which depends on the parameters it shares.
    **{
        f"{encoder}-linear-{framework}-{balancing}-float64": setting(
            encoder, "linear", framework, lanes=4, balancing=balancing, precision="float64"
        )
        for encoder, framework, balancing in covering(
            ENCODERS, FRAMEWORKS, GRADIENT_BALANCINGS, pairs=True
        )
    },
}


HALF_PRECISION = ("fixed", "upgrad")
"""Balancings that are trained in float16, whose gradients overflow at too large a scale."""


def train_in_half_precision(balancing: str, workers: Workers) -> dict[str, Any]:
    """Train a transformer in float16; return its losses and the final scale of the gradients."""
    trial = setting("transformer", "linear", lanes=4, balancing=balancing, precision="float16")
    trainer = Trainer(trial, uneven(), workers=workers)
    losses = [result.losses for result in trainer.epochs()]
    return {"losses": losses, "scale": trainer.scaler.get_scale()}


def train(trial: TrialConfig, workers: Workers) -> dict[str, Any]:
    """Train a complete run; return its results, and its parameters after ``STEPS`` steps."""
    trainer = Trainer(trial, uneven(), workers=workers)
    after: list[dict[str, np.ndarray]] = []
    trainer.optimizer.register_step_post_hook(lambda *_: after.append(arrays(trainer.weights())))
    weights = {result.epoch: trainer.weights() for result in trainer.epochs()}
    best_epochs = trainer.learning_curve[-1].best_epochs
    return {
        "after": after[STEPS - 1],
        "weights": after[-1],
        "results": [without_times(result) for result in trainer.learning_curve],
        "predictions": predict_best(trial, trainer.data, weights, best_epochs, workers),
    }


def learn_balancing(workers: Workers) -> dict[str, Any]:
    """Train learned loss weights; return the sum of their gradients and their final values."""
    trainer = Trainer(config(balancing={"name": "uncertainty"}), uneven(), workers=workers)
    s: Any = trainer.balancing.log_variance
    with torch.no_grad():
        for task, start in zip(TASKS, (0.1, 0.5, 0.2, 0.0), strict=True):
            s[task].fill_(start)
    gradients: list[dict[str, np.ndarray]] = []

    def before(*_: object) -> None:
        gradients.append(arrays({name: value.grad for name, value in s.items()}))

    trainer.optimizer.register_step_pre_hook(before)
    list(trainer.epochs())
    total = {name: np.sum([step[name] for step in gradients], keepdims=True) for name in s}
    return {"gradient": total, "s": arrays(s), "weights": arrays(trainer.weights())}


def resume(balancing: str, workers: Workers) -> dict[str, Any]:
    """Return first-epoch checkpoints of a group and of a single worker, and the resumed runs.

    The group's checkpoint ("here") is resumed by a single worker, the single worker's ("alone") by
    the group.
    """
    weighting, optim = component("balancing", balancing), {"weight_decay": 0.1}
    trial, zoo = config("lstm", balancing=weighting, optim=optim), uneven()
    writers = {"here": workers, "alone": SINGLE_WORKER}
    cases: dict[str, Any] = {}
    for name, writer in writers.items():
        trainer = Trainer(trial, zoo, workers=writer)
        next(trainer.epochs())
        checkpoint = trainer.checkpoint()
        cases[name] = unpack(checkpoint)
        for result in cases[name]["history"]:
            del result["seconds"], result["data_seconds"]
        resumed = Trainer(
            trial, zoo, checkpoint, workers=SINGLE_WORKER if name == "here" else workers
        )
        results = [without_times(result) for result in resumed.epochs()]
        cases[f"after {name}"] = results, arrays(resumed.weights())
    return cases


def drop_out(workers: Workers) -> dict[str, Any]:
    """Train with dropout; return what differs between workers and ("same") what must not.

    Dropped outputs, frames and seed belong to this worker; results and weights are common.
    """
    trainer = Trainer(config(dropout=0.5, optim={"batch_videos": 6}), data((8,) * 6), None, workers)
    zeros: list[np.ndarray] = []
    frames: list[int] = []
    trainer.model.heads["valence"].trunk.register_forward_hook(
        lambda module, given, out: zeros.append((out == 0).numpy())
    )
    trainer.model.register_forward_pre_hook(
        lambda module, given: frames.append(int(given[1].sum()))
    )
    results = [without_times(result) for result in trainer.epochs()]
    seed = torch.initial_seed()
    same = results, arrays(trainer.weights())
    return {"zeros": zeros[0], "frames": sum(frames), "seed": seed, "same": same}


def show_labels(workers: Workers) -> list[np.ndarray]:
    """Return the labels that each step of an epoch shows to a feedback framework."""
    wiring = {"form": "labels", "sources": ["valence"], "targets": ["arousal"]}
    trial = config("gru", "mlp", "feedback", framework=wiring, optim={"batch_videos": 4})
    trainer = Trainer(trial, data((12,) * 4), workers=workers)
    shown: list[np.ndarray] = []
    trainer.model.register_forward_pre_hook(
        lambda module, given: shown.append(given[3].shown.numpy()) if module.training else None
    )
    next(trainer.epochs())
    return shown


def pretrain_autoencoder(workers: Workers) -> dict[str, Any]:
    """Return losses, numbers of images and weights of two epochs of a masked autoencoder."""
    plain = yaml.safe_load((CONFIGS / "pretrain_mae.yaml").read_text())
    plain |= {"backbone": "mae_vit_mini", "size": 32}
    plain["optim"] |= {"base_lr": 0.02, "warmup_epochs": 1}
    plain["training"] |= {"epochs": 2, "batch_images": 5, "device": "cpu", "precision": "float32"}
    trial = validate_as(MAEConfig, plain)
    objective = Reconstruction(trial)
    trainer = Pretrainer(objective, trial, workers=workers)
    random = np.random.default_rng(0)
    patches = objective.autoencoder.patches
    results = []
    for _ in range(2):
        batches = [
            {
                "pixels": torch.from_numpy(random.integers(0, 256, (5, 32, 32, 3), np.uint8)),
                "valid": torch.tensor([True, True, False, True, True]),
                "noise": torch.from_numpy(random.random((5, patches), np.float32)),
            }
            for _ in range(3)
        ]
        own = [{k: v[workers.rank :: workers.size] for k, v in b.items()} for b in batches]
        results.append(trainer.train_epoch(own, len(own)))
    return {
        "losses": [result.losses for result in results],
        "images": [result.images for result in results],
        "weights": arrays(objective.weights()),
    }


def collapse(workers: Workers) -> list[dict[str, Any]]:
    """Train with heads of tiny weights, that of valence large; return the results of the epochs.

    The rate is so low that the outputs hardly change.
    """
    trainer = Trainer(config("lstm", optim={"lr": 1e-6}), uneven(), workers=workers)
    with torch.no_grad():
        for task in TASKS:
            *_, weights, _ = trainer.model.heads[task].parameters()
            weights.mul_(10.0 if task == "valence" else 0.01)
    return [without_times(result) for result in trainer.epochs()]


# Runs that end early


def stop(of: int, workers: Workers) -> tuple[int, int]:
    """Return steps and epochs of a run that worker ``of`` requests to stop after ten steps."""
    trial = config(training={"epochs": 2}, optim={"batch_videos": 3})
    trainer = Trainer(trial, data((60,) * 4), workers=workers)
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    results = list(trainer.epochs(lambda: workers.rank == of and len(steps) >= 10))
    return len(steps), len(results)


def fail(trainer: Trainer) -> str:
    """Train and return the message of the training error, or "no error"."""
    try:
        list(trainer.epochs())
    except TrainingError as error:
        return str(error)
    return "no error"


def fail_at_a_rate(workers: Workers) -> str:
    """Train with a learning rate that makes the training diverge; return the error."""
    trial = config(optim={"lr": 1e30, "warmup_epochs": 0})
    return fail(Trainer(trial, uneven(), workers=workers))


def fail_at_a_feature(workers: Workers) -> str:
    """Train with one frame of NaN features on one worker; return the error."""
    first, *rest = data().train
    block = first.features[0].block.copy()
    block[6] = np.nan
    broken = replace(first, features=(replace(first.features[0], block=block), first.features[1]))
    return fail(Trainer(config(), replace(data(), train=(broken, *rest)), workers=workers))


def fail_on_one(steps: int, workers: Workers) -> str:
    """Set weights of the last worker to NaN after ``steps`` steps; return the error.

    An epoch has 6 steps.
    """
    trainer = Trainer(config(), data((12,) * 6, SELECT), workers=workers)
    taken: list[int] = []

    def poison(*_: object) -> None:
        taken.append(1)
        if len(taken) == steps and workers.rank == workers.size - 1:
            with torch.no_grad():
                next(trainer.model.parameters()).fill_(np.nan)

    trainer.optimizer.register_step_post_hook(poison)
    return fail(trainer)


# Predictions


def predict_in_several_ways(encoder: str, workers: Workers) -> dict[str, np.ndarray]:
    """Predict the same videos in reverse order, one by one, and with several numbers of lanes."""
    trial = config(encoder)
    trainer = Trainer(trial, data())
    list(trainer.epochs())
    where, zoo = part(videos(SELECT)), videos(SELECT)

    def outputs(where: Any = where) -> np.ndarray:
        return predict(trainer.model, trial, trainer.data, where, CPU, workers)

    ends = np.cumsum(SELECT[::-1])[:-1]
    predictions = {
        "reversed": np.concatenate(np.split(outputs(part(zoo[::-1])), ends)[::-1]),
        "one by one": np.concatenate([outputs(part([video])) for video in zoo]),
    }
    for lanes in (1, 2, 5, 16):
        with patch.object(inference, "EVALUATION_LANES", lanes):
            predictions[f"{lanes} lanes"] = outputs()
    return predictions


# Collective operations


def add_up(workers: Workers) -> dict[str, Any]:
    """Sum tensors over workers; return sums, gradients and the number of collective calls.

    The sum "large" is not exact in float32, which has no number between 2^24 and 2^24 + 2.
    """
    parts = [
        torch.tensor([workers.rank, 2.0], requires_grad=True),
        torch.tensor([0.5 + workers.rank], dtype=torch.float64, requires_grad=True),
    ]
    with patch.object(dist, "all_reduce", wraps=dist.all_reduce) as exchange:
        sums = workers.sum(parts)
    (large,) = workers.sum([torch.tensor([2.0**24 if workers.rank == r else 1 for r in range(3)])])
    gradients = torch.autograd.grad(2 * sums[0].sum() + 3 * sums[1].sum(), parts)
    return {
        "sums": [part.tolist() for part in sums],
        "dtypes": [part.dtype for part in sums],
        "gradients": [part.tolist() for part in gradients],
        "exchanges": exchange.call_count,
        "large": large.tolist(),
    }


def combine_rows(workers: Workers) -> dict[str, list[float]]:
    """Return results of ``combine_rows`` for matrices, functions and draws that depend on rank."""
    matrix = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    torch.manual_seed(workers.rank)
    overflow = torch.where(torch.tensor(workers.rank == workers.size - 1), torch.inf, matrix)
    return {
        "sum": workers.combine_rows(matrix * (workers.rank + 1), lambda m: m.sum(dim=0)).tolist(),
        "drawn": workers.combine_rows(matrix, lambda m: torch.rand(2)).tolist(),
        "overflow": workers.combine_rows(overflow, lambda m: m[1]).tolist(),
    }


def communicate(workers: Workers) -> dict[str, Any]:
    """Return the results of the workers' other collective operations."""
    values = np.zeros((4, 3), np.float32)
    values[workers.rank] = 0.1 + workers.rank
    kept = values.copy()
    total = workers.all_reduce(values)
    return {
        "total": total,
        "untouched": np.array_equal(values, kept),
        "agree": [workers.broadcast_flag(workers.rank == rank) for rank in (0, 1)],
        "share": workers.broadcast_object({"rank": workers.rank, "none": None}),
        "buffers": shared_buffers(workers),
        "rank": workers.rank,
        "again": Workers.from_process_group() == workers,
    }


def shared_buffers(workers: Workers) -> dict[str, list[float]]:
    """Return the broadcast buffers of a BatchNorm that was updated with this worker's rank."""
    norm = torch.nn.BatchNorm1d(1)
    norm(torch.full((2, 1), float(workers.rank + 1)))
    workers.broadcast_buffers(norm)
    return {name: buffer.reshape(-1).tolist() for name, buffer in norm.named_buffers()}


CASES: dict[str, Callable[[Workers], Any]] = {
    **{f"train {name}": partial(train, trial) for name, trial in RUNS.items()},
    **{f"predict {name}": partial(predict_in_several_ways, name) for name in ENCODER_NAMES},
    **{f"half precision {name}": partial(train_in_half_precision, name) for name in HALF_PRECISION},
    "learn balancing": learn_balancing,
    "resume fixed": partial(resume, "fixed"),
    "resume pcgrad": partial(resume, "pcgrad"),
    "drop out": drop_out,
    "show labels": show_labels,
    "pretrain an autoencoder": pretrain_autoencoder,
    "collapse": collapse,
    "stop of the first": partial(stop, 0),
    "stop of the second": partial(stop, 1),
    "fail at a rate": fail_at_a_rate,
    "fail at a feature": fail_at_a_feature,
    "fail in training": partial(fail_on_one, 2),
    "fail in evaluation": partial(fail_on_one, 6),
    "add up": add_up,
    "combine rows": combine_rows,
    "talk": communicate,
}
