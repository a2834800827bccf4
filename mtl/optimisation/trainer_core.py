"""Base class of the trainers: steps that trials and backbone pretraining have in common."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from mtl.errors import TrainingError
from mtl.optimisation.checkpoint import pack, read_checkpoint
from mtl.optimisation.device import autocast, choose_device, choose_precision, parameter_dtype
from mtl.optimisation.distributed import Workers
from mtl.optimisation.learning_rate import ScheduleSettings, learning_rate_factor


@runtime_checkable
class OptimSettings(ScheduleSettings, Protocol):
    """Optimizer settings that every training has: learning-rate schedule and gradient clipping.

    Attributes:
        gradient_clip: Largest norm of the model's gradient; 0 for no limit.
    """

    gradient_clip: float


@runtime_checkable
class TrainingSettings(Protocol):
    """Settings of a config's ``training`` section that every training has.

    Attributes:
        epochs: Epochs of the whole training.
        seed: Seed of all random numbers of the training.
        device: Device of the model; ``auto`` takes CUDA if it is available.
        precision: Precision of the forward pass; ``auto`` is bfloat16 on CUDA devices that support
            it, else float32.
    """

    epochs: int
    seed: int
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["auto", "float64", "float32", "bfloat16", "float16"]


@runtime_checkable
class EpochSummary(Protocol):
    """Protocol of the results of one epoch: a dataclass with the mean training losses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def losses(self) -> dict[str, float]:
        """Mean training losses of the epoch by name."""


Result = TypeVar("Result", bound=EpochSummary)


class TrainerCore(Generic[Result]):
    """Base class of the trainers: one training's model, optimizer and per-epoch results.

    A training can be continued from a checkpoint after any epoch.

    The constructor of a subclass makes the model, the balancing and the optimizer, sets the peak
    learning rate and calls ``_resume``.

    Args:
        optim: Gradient clipping and learning-rate schedule.
        training: Length, seed, device and precision.
        workers: DDP workers that train the model together.

    Attributes:
        balancing: Balancing (weighting of the losses or their gradients); its parameters are
            trained with the model.
        peak_learning_rate: Learning rate after warm-up and before decay.
        ddp_model: The model with gradients summed over workers.
        learning_curve: Result of each finished epoch.
        result_type: Dataclass of an epoch's result.
        balancing_key: Key of the balancing's state in a checkpoint.
        learning_rate_key: Name of the learning rate in the config's ``optim`` section.
    """

    model: nn.Module
    balancing: nn.Module
    optimizer: torch.optim.Optimizer
    peak_learning_rate: float
    result_type: Callable[..., Result]
    balancing_key: ClassVar[str]
    learning_rate_key: ClassVar[str]

    def __init__(self, optim: OptimSettings, training: TrainingSettings, workers: Workers) -> None:
        self.optim, self.training, self.workers = optim, training, workers
        self.device = choose_device(training.device, "training.device")
        self.precision = choose_precision(training.precision, self.device)
        self.dtype = parameter_dtype(self.precision)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.precision is torch.float16
        )
        self.learning_curve: list[Result] = []

    def _resume(self, checkpoint: bytes | None) -> None:
        """Load a checkpoint, if given, and wrap the model in DDP if there are several workers."""
        if checkpoint is not None:
            state = read_checkpoint(checkpoint)
            for key, part in self._stateful().items():
                part.load_state_dict(state[key])
            self.learning_curve = [self.result_type(**result) for result in state["history"]]
        self.ddp_model = self.workers.wrap(self.model)

    def _stateful(self) -> dict[str, Any]:
        return {
            "model": self.model,
            self.balancing_key: self.balancing,
            "optimizer": self.optimizer,
            "scaler": self.scaler,
        }

    def checkpoint(self) -> bytes:
        """Return the state after the last epoch as bytes, to continue the training from."""
        states = {key: part.state_dict() for key, part in self._stateful().items()}
        return pack(states | {"history": [asdict(result) for result in self.learning_curve]})

    def _past_losses(self) -> list[dict[str, float]]:
        return [result.losses for result in self.learning_curve]

    def _begin_epoch(self, epoch: int) -> None:
        # Workers draw different dropout.
        torch.manual_seed(epoch_seed(self.training.seed, epoch) + self.workers.rank)
        self.model.train()

    def _set_learning_rate(self, epoch: int, step: int, steps: int) -> None:
        factor = learning_rate_factor(
            self._warmup_epochs(steps),
            self.optim.decay,
            self.training.epochs,
            epoch - 1 + step / steps,
            1 / steps,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.peak_learning_rate * factor

    def _warmup_epochs(self, steps: int) -> float:
        """Return the length of the warm-up in epochs of ``steps`` steps."""
        return self.optim.warmup_epochs

    def _forward(self, *inputs: Any) -> Any:
        with autocast(self.device, self.precision):
            return self.ddp_model(*inputs)

    def _optimizer_step(self) -> None:
        """Clip the gradients and update the parameters, unless the gradients are not finite."""
        self.scaler.unscale_(self.optimizer)
        if clip := self.optim.gradient_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip, foreach=True)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _check_finite(
        self, names: Sequence[str], totals: Tensor, epoch: int, step: int, steps: int
    ) -> None:
        # On a GPU this check waits for the step, so there it is done once an epoch.
        if (self.device.type == "cpu" or step == steps - 1) and not totals.isfinite().all():
            bad = [n for n, v in zip(names, totals.tolist(), strict=True) if v - v != 0]
            raise TrainingError(
                f"the loss of {', '.join(bad)} is not finite at epoch {epoch}, step {step + 1}: "
                f"{self._remedy()}"
            )

    def _remedy(self) -> str:
        rate = getattr(self.optim, self.learning_rate_key)
        return f"lower optim.{self.learning_rate_key} = {rate:g} or set optim.gradient_clip"


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of torch's random generator in an epoch; epoch 0 is for the initial weights.

    Args:
        seed: Seed of the training.
        epoch: Number of the epoch, from 1, or 0.
    """
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
