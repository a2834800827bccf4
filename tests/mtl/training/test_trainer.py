import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mtl.config import TrialConfig
from mtl.losses.balancing import BALANCINGS
from mtl.models.encoders import ENCODERS
from mtl.models.frameworks import FRAMEWORKS
from mtl.models.heads import HEADS
from mtl.optimisation.learning_rate import learning_rate_factor
from mtl.sequences.join import VideoSequence
from mtl.sequences.windows import carried_schedule, free_schedule
from mtl.tasks import TASKS
from mtl.training.inference import TrialData
from mtl.training.trainer import EpochResult, Trainer
from tests.support.covering import covering
from tests.support.laws import (
    ENCODER_NAMES,
    FEW_MODELS,
    LOSS_OF_KIND,
    component,
    config,
    data,
    features_of,
    model,
    part,
    videos,
)

CLOCK = ("seconds", "data_seconds")


def run(
    trial: TrialConfig, zoo: TrialData | None = None
) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Return the results of all epochs without times, and the bytes of the trained weights."""
    trainer = Trainer(trial, zoo or data())
    return [timeless(result) for result in trainer.epochs()], bits(trainer)


def timeless(result: EpochResult) -> dict[str, Any]:
    return {key: value for key, value in asdict(result).items() if key not in CLOCK}


def bits(trainer: Trainer) -> list[bytes]:
    return [value.numpy().tobytes() for value in trainer.weights().values()]


# Repetition


@pytest.mark.parametrize("names", FEW_MODELS, ids="-".join)
def test_the_same_seed_gives_the_same_bits(names: tuple[str, str, str]) -> None:
    trial = config(*names, dropout=0.3, training={"epochs": 2})
    torch.manual_seed(1)
    first = run(trial)
    torch.manual_seed(2)
    np.random.default_rng().random()
    assert run(trial) == first
    assert run(config(*names, dropout=0.3, training={"epochs": 2, "seed": 1})) != first


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_a_resumed_run_equals_the_undisturbed_one(encoder: str, optimizer: str, epoch: int) -> None:
    trial = config(encoder, dropout=0.3, optim={"name": optimizer, "weight_decay": 0.1})
    whole = Trainer(trial, data())
    results, checkpoints = [], []
    for result in whole.epochs():
        results.append(timeless(result))
        checkpoints.append(whole.checkpoint())
    torch.manual_seed(99)
    resumed = Trainer(trial, data(), checkpoints[epoch - 1])
    assert [timeless(result) for result in resumed.learning_curve] == results[:epoch]
    assert [timeless(result) for result in resumed.epochs()] == results[epoch:]
    assert bits(resumed) == bits(whole)
    assert [timeless(result) for result in resumed.learning_curve] == results


@pytest.mark.parametrize("balancing", BALANCINGS)
def test_every_balancing_resumes(balancing: str) -> None:
    trial = config(balancing=component("balancing", balancing))
    whole = Trainer(trial, data())
    epochs = whole.epochs()
    next(epochs)
    resumed = Trainer(trial, data(), whole.checkpoint())
    assert [timeless(r) for r in resumed.epochs()] == [timeless(r) for r in epochs]
    assert bits(resumed) == bits(whole)


def test_a_finished_run_resumes_to_nothing() -> None:
    whole = Trainer(config(), data())
    assert len(list(whole.epochs())) == 3
    assert not list(Trainer(config(), data(), whole.checkpoint()).epochs())


def test_weights_are_a_copy() -> None:
    trainer = Trainer(config(), data())
    epochs = trainer.epochs()
    next(epochs)
    kept = trainer.weights()
    before = {name: value.clone() for name, value in kept.items()}
    next(epochs)
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert any(not torch.equal(v, before[name]) for name, v in trainer.weights().items())


# What is trained


def plain_loss(task: str, outputs: torch.Tensor, video: VideoSequence, at: slice) -> torch.Tensor:
    """Return the loss of a task, summed over labelled frames."""
    columns, kind = TASKS[task].labels, TASKS[task].kind
    mask = torch.from_numpy(video.mask[at, columns])
    truth = torch.from_numpy(video.labels[at, columns])[mask]
    if kind == "multiclass":
        return functional.cross_entropy(outputs[mask[:, 0]], truth.long(), reduction="sum")
    if kind == "multilabel":
        logits = outputs[mask]
        return functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
    return (outputs[mask] - truth).square().sum()


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_training_equals_a_plain_loop(encoder: str) -> None:
    """The plain loop trains lane after lane, without padding, on labelled frames only."""
    weights = {"valence": 2.0, "arousal": 3.0, "expression": 0.5, "action_units": 1.0}
    clip, lr = 0.7, 0.02
    optim = {"gradient_clip": clip, "lr": lr, "warmup_epochs": 0, "decay": "constant"}
    trial = config(encoder, optim=optim, balancing=weights, training={"epochs": 2})
    zoo = data()
    trainer = Trainer(trial, zoo)
    network = model(trial)
    network.load_state_dict(trainer.weights())
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    make = carried_schedule if network.carries_state else free_schedule
    lengths = [len(video) for video in zoo.train]
    for epoch in (1, 2):
        states: dict[int, Any] = {}
        for step in make(lengths, 3, 4, np.random.default_rng([0, epoch])).tolist():
            sums, counts = dict.fromkeys(TASKS, torch.zeros(())), dict.fromkeys(TASKS, 0)
            pieces = [(lane, *piece) for lane, window in enumerate(step) for piece in window]
            for lane, index, start, length in pieces:
                if not length:
                    continue
                video, at = zoo.train[index], slice(start, start + length)
                state = states.get(lane) if start else None
                valid = torch.ones(1, length, dtype=torch.bool)
                outputs, states[lane] = network(features_of(video, at, zoo), valid, state)
                for task in TASKS:
                    sums[task] = sums[task] + plain_loss(task, outputs[task][0], video, at)
                    counts[task] += int(video.mask[at, TASKS[task].labels].sum())
            optimizer.zero_grad()
            sum(weights[task] * sums[task] / max(1, counts[task]) for task in TASKS).backward()
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in network.parameters()))
            for parameter in network.parameters():
                parameter.grad *= min(1, clip / norm)
            optimizer.step()
    list(trainer.epochs())
    for name, value in network.state_dict().items():
        torch.testing.assert_close(trainer.weights()[name], value, atol=1e-4, rtol=0)


@pytest.mark.parametrize("loss", range(max(map(len, LOSS_OF_KIND.values()))))
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_a_missing_label_changes_no_bit(encoder: str, loss: int) -> None:
    losses = {name: LOSS_OF_KIND[task.kind][-1 - loss :][0] for name, task in TASKS.items()}
    trial, zoo = config(encoder, loss=losses), data()
    wrong = tuple(
        replace(video, labels=np.where(video.mask, video.labels, np.float32(value)))
        for video, value in zip(zoo.train, (-5, -1, 99, np.nan, np.inf), strict=True)
    )
    assert run(trial, replace(zoo, train=wrong)) == run(trial, zoo)


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_batches_without_a_label_of_a_task_keep_losses_finite(encoder: str) -> None:
    """One frame has an expression label, and only the first video has valence labels."""
    first, *rest = data().train
    masks = [video.mask.copy() for video in (first, *rest)]
    for mask in masks[1:]:
        mask[:, 0] = mask[:, TASKS["expression"].labels] = False
    masks[0][1:, TASKS["expression"].labels] = False
    masks[0][0, TASKS["expression"].labels] = True
    train = tuple(replace(v, mask=m) for v, m in zip((first, *rest), masks, strict=True))
    trial = config(encoder, loss={"valence": "ccc"})
    results, _ = run(trial, replace(data(), train=train))
    assert len(results) == 3
    assert all(math.isfinite(loss) for result in results for loss in result["losses"].values())


def test_a_task_that_is_not_trained_gets_no_head() -> None:
    trainer = Trainer(config(), data(tasks=("arousal", "action_units")))
    assert set(trainer.model.heads) == {"arousal", "action_units"}
    (result, *_) = trainer.epochs()
    assert result.losses.keys() == result.scores.keys() == {"arousal", "action_units"}


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_training_learns(encoder: str) -> None:
    """The valence label is a function of the first feature."""

    def planted(video: VideoSequence) -> VideoSequence:
        x = features_of(video, slice(None), data())[0, :, :1].numpy()
        mask = np.zeros_like(video.mask)
        mask[:, 0] = True
        return replace(video, labels=np.where(mask, np.tanh(x), np.float32(0)), mask=mask)

    train, select = (tuple(map(planted, videos((30,) * 5, seed=s))) for s in (0, 1))
    zoo = replace(data(tasks=("valence",)), train=train, parts={"select": part(select)})
    settings = {"training": {"epochs": 12}, "sequence": {"window_frames": 10}}
    trial = config(encoder, **settings, optim={"lr": 0.03, "batch_videos": 5})
    results = list(Trainer(trial, zoo).epochs())
    assert results[-1].losses["valence"] < 0.3 * results[0].losses["valence"]
    assert results[-1].objective > 0.7


@pytest.mark.parametrize(
    ("encoder", "head", "framework", "precision"),
    covering(ENCODERS, HEADS, FRAMEWORKS, ["bfloat16", "float32", "float64"], pairs=True),
)
def test_everything_trains_in_any_precision(
    encoder: str, head: str, framework: str, precision: str
) -> None:
    names = (encoder, head, framework)
    losses = {name: LOSS_OF_KIND[task.kind][-1] for name, task in TASKS.items()}
    trial = config(*names, loss=losses, training={"precision": precision, "epochs": 1})
    trainer = Trainer(trial, data())
    (result,) = trainer.epochs()
    kept = torch.float64 if precision == "float64" else torch.float32
    assert {value.dtype for value in trainer.weights().values()} == {kept}
    assert result.frames == sum(map(len, data().train))
    assert 0 <= result.data_seconds <= result.seconds


# The schedule of the learning rate


def plain_rates(trial: TrialConfig, steps: int) -> list[float]:
    """Return the learning rate of each step of the whole training."""
    total, warm = trial.training.epochs * steps, trial.optim.warmup_epochs * steps
    rates = []
    for step in range(total):
        if step < warm:
            share = min(1.0, (step + 1) / warm)
        elif trial.optim.decay == "constant":
            share = 1.0
        else:
            share = (1 + math.cos(math.pi * (step - warm) / (total - warm))) / 2
        rates.append(trial.optim.lr * share)
    return rates


@pytest.mark.parametrize("decay", ["cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 0.3, 0.5, 1, 2.5, 3, 7])
def test_learning_rates_follow_the_plain_formula(warmup: float, decay: str) -> None:
    trial = config(optim={"warmup_epochs": warmup, "decay": decay})
    rates, ends = rates_of(trial)
    assert len(rates) % 3 == 0
    assert rates == pytest.approx(plain_rates(trial, len(rates) // 3))
    assert min(rates) > 0
    assert max(rates) <= trial.optim.lr
    assert ends == rates[len(rates) // 3 - 1 :: len(rates) // 3]


def rates_of(trial: TrialConfig) -> tuple[list[float], list[float]]:
    """Return the learning rate of each step, and the rate in the result of each epoch."""
    trainer = Trainer(trial, data())
    rates: list[float] = []

    def before(optimizer: torch.optim.Optimizer, *_: object) -> None:
        rates.append(optimizer.param_groups[0]["lr"])

    trainer.optimizer.register_step_pre_hook(before)
    ends = [result.learning_rate for result in trainer.epochs()]
    return rates, ends


def test_warm_up_goes_from_one_step_s_share_to_the_whole_rate() -> None:
    rates = [learning_rate_factor(2.0, "cosine", 10, step / 4, 1 / 4) for step in range(9)]
    assert rates == pytest.approx([k / 8 for k in range(1, 9)] + [1])


def test_warm_up_in_steps_replaces_that_in_epochs() -> None:
    per_epoch = len(rates_of(config())[0]) // 3
    for steps in (0, 1, per_epoch, per_epoch + 1):
        in_steps, _ = rates_of(config(optim={"warmup_epochs": 2, "warmup_steps": steps}))
        in_epochs, _ = rates_of(config(optim={"warmup_epochs": steps / per_epoch}))
        assert in_steps == pytest.approx(in_epochs)
        assert len(set(in_steps[:steps])) == steps


@pytest.mark.parametrize(("encoder", "hidden"), [("gru", 8), ("transformer", 16)])
def test_the_learning_rate_is_inverse_to_the_width(encoder: str, hidden: int) -> None:
    wide = {"encoder": component("encoder", encoder, hidden=hidden)}
    scaled, _ = rates_of(config(encoder, **wide, optim={"lr": 0.02, "lr_reference_width": 4}))
    plain, _ = rates_of(config(encoder, **wide, optim={"lr": 0.02 * 4 / hidden}))
    assert scaled == pytest.approx(plain)


@pytest.mark.parametrize("clip", [0, 1e-3, 1e6])
def test_gradients_are_clipped(clip: float) -> None:
    norms = norms_of(Trainer(config(optim={"gradient_clip": clip}), data()))
    if clip == 1e-3:
        assert norms == pytest.approx([clip] * len(norms), rel=1e-3)
    else:
        assert min(norms) > 0.01


def test_scaled_gradients_are_unscaled_before_they_are_clipped() -> None:
    """In float16 the loss and the gradients are scaled by up to 2^16."""
    settings = {"training": {"precision": "float16"}, "optim": {"gradient_clip": 1e-3}}
    trainer = Trainer(config("transformer", **settings), data())
    norms = norms_of(trainer)
    assert trainer.scaler.is_enabled()
    norms = [norm for norm in norms if math.isfinite(norm)]  # other steps are skipped
    assert norms
    assert norms == pytest.approx([1e-3] * len(norms), rel=1e-2)


def norms_of(trainer: Trainer) -> list[float]:
    """Return the norm of the gradient at each step of the first epoch."""
    norms: list[float] = []

    def before(*_: object) -> None:
        squares = [float(p.grad.square().sum()) for p in trainer.model.parameters()]
        norms.append(math.sqrt(sum(squares)))

    trainer.optimizer.register_step_pre_hook(before)
    next(trainer.epochs())
    return norms


def test_training_reads_only_train_and_select() -> None:
    zoo = data()
    assert run(config(), replace(zoo, parts={"select": zoo.parts["select"]})) == run(config(), zoo)


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_double_precision_is_close_to_single_precision(encoder: str) -> None:
    runs = [run(config(encoder, training={"precision": p}))[0] for p in ("float64", "float32")]
    for double, single in zip(*(run[-1]["losses"].values() for run in runs), strict=True):
        assert double != single
        assert double == pytest.approx(single, abs=1e-5)


def test_precision_is_float32_on_the_cpu() -> None:
    trainer = Trainer(config(training={"precision": "auto"}), data())
    assert trainer.precision is torch.float32
