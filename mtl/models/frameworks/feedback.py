"""Feedback framework (SBE-HSF): predictions of source tasks are inputs of the target tasks.

Shapes: B windows, T frames, F features, C outputs of a task.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mtl.errors import InputError
from mtl.models.frameworks.base import (
    EncoderPass,
    Framework,
    ModuleFactory,
    Outputs,
    TeacherForcing,
    make_heads,
)
from mtl.strict import Positive, Probability, did_you_mean
from mtl.tasks import TASKS, Task


class Feedback(Framework):
    """Shared bottom encoder with hidden-states feedback from source to target tasks (SBE-HSF).

    Each task has its own top encoder and head over the shared bottom encoder, as in
    ``ShareBottom``. The source tasks are computed first, and the top encoders of the target tasks
    take as input the bottom's output concatenated with detached feedback from every source
    (Zhang et al. 2022, section 3.3):

    - Form ``features``: the hidden vector of the source's head.
    - Form ``labels``: a learnt embedding of the source's predicted values, scaled to [0, 1]. In
      training known labels replace some of these predictions (teacher forcing); the ratio falls
      linearly to 0 over the training.

    Args:
        features: Width F of the input.
        tasks: Names of the trained tasks.
        factory: Factory of encoders and heads.
        shared_layers: Layers of the bottom encoder; each top encoder has ``encoder.layers``.
        sources: Tasks that give feedback.
        targets: Tasks that receive feedback; no task is both a source and a target.
        form: ``features`` or ``labels``.
        embedding: Width of each source's embedding (form ``labels``).
        teacher_forcing_ratio: Teacher forcing ratio at the start of training (form ``labels``).
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
        """Check the tasks whose predictions are fed back (sources) and that receive them (targets).

        Both must be trained tasks, and no task may be both.

        Args:
            tasks: Names of the trained tasks.
            parameters: Keyword parameters of the constructor; ``sources`` and ``targets`` are used.

        Raises:
            InputError: A task is unknown, not trained, named twice, or both a source and a target,
                or there are no sources or no targets.
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
                    f"framework.targets: {task} is a source too: keep it in one of the two lists"
                )

    def teacher_forcing_ratio(self, progress: float) -> float:
        """Return the share of predictions that labels replace; it falls linearly to 0 in training.

        Args:
            progress: Finished share of the training, in [0, 1].
        """
        return self.initial_teacher_forcing_ratio * (1 - progress) if self.form == "labels" else 0.0

    def outputs(self, x: Float[Tensor, "B T F"], encoder_pass: EncoderPass) -> Outputs:
        """Compute the raw outputs of all tasks; the target tasks are computed after the others.

        No gradient flows from a target task to the tasks that give it feedback.
        """
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
        """Return one feedback tensor for each source task, to feed to a target task's encoder.

        Args:
            target: Name of the target task.
            outputs: Raw outputs of the source tasks, by the task's name.
            hidden: Hidden vectors of the source tasks' heads (outputs of ``trunk``), by the task's
                name.
            teacher_forcing: Labels that may replace predictions; None at evaluation.
        """
        if self.form == "features":
            return [hidden[source].detach() for source in self.sources]
        embeddings: Any = self.embeddings[target]
        return [
            embeddings[source](
                feedback_values(TASKS[source], outputs[source].detach(), teacher_forcing)
            )
            for source in self.sources
        ]


def feedback_values(
    task: Task, raw: Float[Tensor, "B T C"], teacher_forcing: TeacherForcing | None
) -> Float[Tensor, "B T C"]:
    """Return a task's predictions scaled to [0, 1], some of them replaced by labels.

    The values are (prediction + 1) / 2 (valence and arousal), class probabilities (expression) or
    the probability of each action unit.

    Args:
        task: Task that gives feedback to other tasks.
        raw: Raw outputs of the task, shape (windows, frames, outputs of the task).
        teacher_forcing: Labels, and a mask of the labels that replace predictions; None replaces no
            prediction.
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
