"""Simulated sweep without Ray: a conditional space, deterministic learning curves, one slot.

The course of a trial depends only on its proposal, so it is the same after the driver is killed and
started again.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps.study import Proposal, SweepStudy
from sweeps.study.journal import JOURNAL

EPOCHS = 5
COLLAPSE = 3
"""Epoch after which all tasks of some configurations have collapsed; `Pruner` has no rung there."""
COMPARED: dict[str, Any] = {
    "combinations": [{"encoder": "gru"}, {"encoder": "transformer"}],
    "labels": ["gru", "transformer"],
}


@dataclass(frozen=True)
class Pruner:
    """Settings of the pruner."""

    kind: str = "asha"
    min_epochs: int = 1
    reduction_factor: int = 2


def sample(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """Sample a conditional space: two of three encoders have layers, with different bounds."""
    encoder = chosen.get("encoder") or trial.suggest_categorical(
        "encoder", ["gru", "lstm", "transformer"]
    )
    overrides = [f"encoder={encoder}"]
    if encoder != "lstm":
        most_layers = {"gru": 2, "transformer": 4}[encoder]
        name = "encoder.layers"
        overrides.append(f"{name}={trial.suggest_int(f'encoder={encoder}/{name}', 1, most_layers)}")
    overrides.append(f"optim.lr={trial.suggest_float('optim.lr', 1e-5, 1e-2, log=True)}")
    return overrides


def sample_few(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """Sample as `sample` does without the learning rate, so that configurations repeat."""
    return sample(trial, chosen)[:-1]


def sample_one_of_three(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """Sample a continuous parameter whose values give only three different configs."""
    return [f"head.layers={int(trial.suggest_float('layers', 0.0, 2.99))}"]


def sign(overrides: Sequence[str]) -> str:
    """Return the signature of a trial."""
    return hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:12]


def objective(overrides: Sequence[str], epoch: int) -> float:
    """Return the score of a trial after an epoch; the learning curve depends on its overrides."""
    level, speed = (int(sign([*overrides, part]), 16) / 16**12 for part in ("level", "speed"))
    return level * (1 - math.exp(-epoch * (0.2 + speed)))


def opened(folder: Path, **changed: Any) -> SweepStudy:
    """Open the study of a folder; ``changed`` replaces arguments of ``SweepStudy``.

    ``refits`` in ``changed`` becomes the study's ``refit_members``.
    """
    arguments: dict[str, Any] = {
        "name": "demo",
        "combinations": [{}],
        "labels": [""],
        "trials": 12,
        "sampler": "tpe",
        "seed": 7,
        "pruner": Pruner(),
        "sample": sample,
        "sign": sign,
    }
    refit_members = changed.pop("refits", None)
    study = SweepStudy(folder, **{**arguments, **changed})
    study.refit_members = refit_members
    return study


def collapses(overrides: Sequence[str]) -> bool:
    """Return True for about half of the configurations, whose tasks collapse at `COLLAPSE`."""
    return int(sign([*overrides, "collapse"]), 16) % 2 == 0


def train(
    study: SweepStudy, proposal: Proposal, mishaps: bool = False, collapse: bool = False
) -> None:
    """Train a proposal as a slot does, from its checkpoint, which may be one epoch behind.

    Args:
        study: The study.
        proposal: The trial to train; with an odd number its checkpoint is one epoch behind.
        mishaps: True for failures before the third epoch: trials with odd numbers lose their slot
            once, and every other configuration fails unless it is retried.
        collapse: True if all tasks of some configurations collapse.
    """
    key = (proposal.study, proposal.number)
    if proposal.stopped:
        study.record.tell(*key, TrialState.PRUNED)
        return
    trained = max(0, len(proposal.reported) - proposal.number % 2)
    for epoch in range(trained + 1, EPOCHS + 1):
        if mishaps and epoch == 3:
            if proposal.number % 2 and len(proposal.reported) < 2:
                study.record.put_back(*key)
                return
            if int(proposal.signature, 16) % 2 and not is_retry(study, proposal):
                study.record.tell(*key, TrialState.FAIL, "out of memory", {"seconds": 2})
                return
        fallen = collapse and epoch >= COLLAPSE and collapses(proposal.overrides)
        if study.record.report(*key, epoch, objective(proposal.overrides, epoch), fallen):
            study.record.tell(*key, TrialState.PRUNED)
            return
    study.record.tell(*key, TrialState.COMPLETE, attributes={"scores": {"p": 1.0}, "seconds": 3})


def is_retry(study: SweepStudy, proposal: Proposal) -> bool:
    """Return True if the trial retries a failed one."""
    return "retry_of" in study.record.trials()[proposal.study][proposal.number].user_attrs


def finish(study: SweepStudy, mishaps: bool = False, collapse: bool = False) -> list[Proposal]:
    """Train all remaining trials in one slot and return their proposals."""
    proposals = []
    while (proposal := study.ask()) is not None:
        proposals.append(proposal)
        train(study, proposal, mishaps, collapse)
    return proposals


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the records of a journal without writer and times."""
    lines = (folder / JOURNAL).read_text().splitlines()
    journal: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for record in journal:
        for key in ("worker_id", "datetime_start", "datetime_complete"):
            record.pop(key, None)
    return journal


def run(
    folder: Path,
    retry: bool = False,
    mishaps: bool = False,
    collapse: bool = False,
    **changed: Any,
) -> list[dict[str, Any]]:
    """Run a new or interrupted sweep to its end and return its `records`."""
    with closing(opened(folder, **changed)) as study:
        if retry:
            study.record.retry_failed()
        finish(study, mishaps, collapse)
        assert study.done
    return records(folder)


class Killed(BaseException):
    """Simulated death of the driver."""


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, appends: int, torn: bool) -> Iterator[None]:
    """Raise `Killed` at the journal append that follows ``appends`` appends.

    Args:
        monkeypatch: Fixture that replaces Optuna's append.
        appends: Number of appends that succeed.
        torn: True if the last append writes a part of its line.
    """
    write = optuna.storages.journal.JournalFileBackend.append_logs
    remaining = iter(range(appends))

    def append(self: Any, logs: list[dict[str, Any]]) -> None:
        if next(remaining, None) is not None:
            return write(self, logs)
        if torn:
            with Path(self._file_path).open("ab") as file:
                file.write(b'{"op_code":4,"worker_id":"00')
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", append)
        yield
