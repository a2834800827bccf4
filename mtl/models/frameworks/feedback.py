"""SBE-HSF: what source tasks say is fed back into the target tasks' own top layers.

Shapes: B windows, T frames, H hidden, W outputs of a task, E embedding.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mtl.errors import InputError
from mtl.models.frameworks.base import (
    Framework,
    Outputs,
    ModuleFactory,
    TeacherForcing,
    EncoderPass,
    make_heads,
)
from mtl.strict import Positive, Probability, did_you_mean
from mtl.tasks import TASKS, Task


class Feedback(Framework):
    """Hidden-States Feedback over a shared bottom (Zhang et al. 2022, 3.3).

    The source tasks run first. What they say is concatenated, detached, to the bottom's output and
    goes into the top layers of the targets; all other tasks are as in ``ShareBottom``. In the form
    ``features`` it is the hidden state of each source's head. In the form ``labels`` it is a learnt
    embedding of each source's values, in [0, 1]; in training a share of the frames, decaying to 0
    over the epochs, has the true value where it is known.

    Args:
        shared_layers: Of the bottom; ``encoder.layers`` are the top's.
        sources: Tasks that are fed back.
        targets: Tasks that they are fed to; none of them is a source.
        form: What is fed back.
        embedding: Width of each source's embedding (form ``labels``).
        teacher_forcing_ratio: Share of the frames whose labels are fed back at the start (form
            ``labels``).
    """

    shared = ("bottom",)

    def __init__(
        self,
        features: int,
        tasks: Sequence[str],
        factory: ModuleFactory,
        *,
        shared_layers: Positive,
        sources: tuple[str, ...],
        targets: tuple[str, ...],
        form: Literal["features", "labels"],
        embedding: Positive,
        teacher_forcing_ratio: Probability,
    ) -> None:
        super().__init__()
        self.check(tasks, sources=sources, targets=targets)
        self.sources, self.targets, self.form = sources, targets, form
        self.initial_teacher_forcing_ratio = teacher_forcing_ratio
        self.bottom = factory.encoder(features, layers=shared_layers)
        hidden = self.bottom.hidden
        self.heads = make_heads(factory, hidden, tasks)
        fed = sum(self._feedback_width(source, embedding) for source in sources)
        widths = {task: hidden + fed if task in targets else hidden for task in tasks}
        self.tops = nn.ModuleDict(
            {task: factory.encoder(width, on_top=True) for task, width in widths.items()}
        )
        self.embeddings = nn.ModuleDict()
        if form == "labels":
            for target in targets:
                self.embeddings[target] = nn.ModuleDict(
                    {s: nn.Linear(TASKS[s].width, embedding, bias=False) for s in sources}
                )

    @classmethod
    def check(cls, tasks: Sequence[str], **parameters: Any) -> None:
        """Sources and targets are trained tasks, and no task is both.

        Raises:
            InputError: Which one is not, by name.
        """
        sources, targets = parameters["sources"], parameters["targets"]
        for role, named in (("sources", sources), ("targets", targets)):
            if not named:
                raise InputError(f"framework.{role} is empty: name at least one task")
            for task in named:
                if task not in TASKS:
                    raise InputError(
                        f"framework.{role}: {task!r} is unknown{did_you_mean(task, TASKS)}"
                    )
                if named.count(task) > 1:
                    raise InputError(f"framework.{role} names {task} twice: name it once")
                if task not in tasks:
                    raise InputError(
                        f"framework.{role}: {task} is not trained: trained are {', '.join(tasks)}"
                    )
        for task in targets:
            if task in sources:
                raise InputError(
                    f"framework.targets: {task} is a source too, and cannot hear itself: keep one"
                )

    def teacher_forcing_ratio(self, progress: float) -> float:
        """Ratio that falls linearly from the parameter's value to 0."""
        return self.initial_teacher_forcing_ratio * (1 - progress) if self.form == "labels" else 0.0

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """The targets' top layers hear the sources; nothing flows back."""
        bottom = encoder_pass.encode("bottom", self.bottom, x)
        outputs: Outputs = {}
        hidden: dict[str, Tensor] = {}
        last = [task for task in self.heads if task in self.targets]
        for task in [*(task for task in self.heads if task not in last), *last]:
            below = bottom
            if task in last:
                fed = self._feedback_inputs(task, outputs, hidden, encoder_pass.teacher_forcing)
                below = torch.cat([bottom, *fed], dim=-1)
            head: Any = self.heads[task]
            hidden[task] = head.trunk(encoder_pass.encode(task, self.tops[task], below))
            outputs[task] = head.output(hidden[task])
        return {task: outputs[task] for task in self.heads}

    def _feedback_width(self, source: str, embedding: int) -> int:
        head: Any = self.heads[source]
        return embedding if self.form == "labels" else int(head.output.in_features)

    def _feedback_inputs(
        self,
        target: str,
        outputs: Outputs,
        hidden: dict[str, Tensor],
        teacher_forcing: TeacherForcing | None,
    ) -> list[Tensor]:
        if self.form == "features":
            return [hidden[source].detach() for source in self.sources]
        embeddings: Any = self.embeddings[target]
        return [
            embeddings[source](feedback_values(TASKS[source], outputs[source].detach(), teacher_forcing))
            for source in self.sources
        ]


def feedback_values(
    task: Task, raw: Float[Tensor, "B T W"], teacher_forcing: TeacherForcing | None
) -> Float[Tensor, "B T W"]:
    """A task's values in [0, 1]: what is predicted, and what is true where that is shown.

    Valence and arousal as (x + 1) / 2, expression as class probabilities, action units each as its
    probability.
    """
    if task.kind == "regression":
        predicted = (raw.clamp(-1, 1) + 1) / 2
    else:
        predicted = raw.softmax(dim=-1) if task.kind == "multiclass" else raw.sigmoid()
    if teacher_forcing is None:
        return predicted
    shown = teacher_forcing.shown[..., task.labels]
    true = teacher_forcing.labels[..., task.labels].masked_fill(~shown, 0).to(predicted.dtype)
    if task.kind == "regression":
        true = (true + 1) / 2
    elif task.kind == "multiclass":
        true = functional.one_hot(true[..., 0].long(), task.width).to(predicted.dtype)
    return torch.where(shown, true, predicted)
