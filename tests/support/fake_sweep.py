"""A sweep without Ray: a conditional space, learning curves that follow from the overrides, a slot.

What happens to a trial follows from its proposal alone, so a driver that is killed and started
again meets the same slot.
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
COMPARED: dict[str, Any] = {
    "combinations": [{"encoder": "gru"}, {"encoder": "transformer"}],
    "labels": ["gru", "transformer"],
}


@dataclass(frozen=True)
class Pruner:
    kind: str = "asha"
    min_epochs: int = 1
    reduction_factor: int = 2


def sample(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """A conditional space: layers exist under two of three encoders, with different bounds."""
    encoder = chosen.get("encoder") or trial.suggest_categorical(
        "encoder", ["gru", "lstm", "transformer"]
    )
    overrides = [f"encoder={encoder}"]
    if encoder != "lstm":
        most = {"gru": 2, "transformer": 4}[encoder]
        name = "encoder.layers"
        overrides.append(f"{name}={trial.suggest_int(f'encoder={encoder}/{name}', 1, most)}")
    overrides.append(f"optim.lr={trial.suggest_float('optim.lr', 1e-5, 1e-2, log=True)}")
    return overrides


def sample_few(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """`sample` without the learning rate: a few configurations, drawn again and again."""
    return sample(trial, chosen)[:-1]


def sample_one_of_three(trial: optuna.Trial, chosen: Mapping[str, Any]) -> list[str]:
    """Three signatures, but as many points as TPE likes."""
    return [f"head.layers={int(trial.suggest_float('layers', 0.0, 2.99))}"]


def sign(overrides: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(overrides).encode()).hexdigest()[:12]


def objective(overrides: Sequence[str], epoch: int) -> float:
    """A learning curve that follows from the overrides, different for any two."""
    level, speed = (int(sign([*overrides, part]), 16) / 16**12 for part in ("level", "speed"))
    return level * (1 - math.exp(-epoch * (0.2 + speed)))


def opened(folder: Path, **changed: Any) -> SweepStudy:
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


def train(study: SweepStudy, proposal: Proposal, mishaps: bool = False) -> None:
    """A slot: goes on from the checkpoint, which for every other trial is one epoch behind.

    Mishaps happen before the third epoch: the slot of every other trial is lost, and every other
    configuration breaks unless it is retried.
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
        if study.record.report(*key, epoch, objective(proposal.overrides, epoch)):
            study.record.tell(*key, TrialState.PRUNED)
            return
    study.record.tell(*key, TrialState.COMPLETE, attributes={"scores": {"p": 1.0}, "seconds": 3})


def is_retry(study: SweepStudy, proposal: Proposal) -> bool:
    return "retry_of" in study.record.trials()[proposal.study][proposal.number].user_attrs


def finish(study: SweepStudy, mishaps: bool = False) -> list[Proposal]:
    """One slot trains whatever there is; returns what it was handed."""
    handed = []
    while (proposal := study.ask()) is not None:
        handed.append(proposal)
        train(study, proposal, mishaps)
    return handed


def records(folder: Path) -> list[dict[str, Any]]:
    """All that a journal says, but for who wrote it and when."""
    lines = (folder / JOURNAL).read_text().splitlines()
    found: list[dict[str, Any]] = [json.loads(line) for line in lines]
    for line in found:
        for key in ("worker_id", "datetime_start", "datetime_complete"):
            line.pop(key, None)
    return found


def run(
    folder: Path, retry: bool = False, mishaps: bool = False, **changed: Any
) -> list[dict[str, Any]]:
    """A sweep from wherever it is to its end; returns its `records`."""
    with closing(opened(folder, **changed)) as study:
        if retry:
            study.record.retry_failed()
        finish(study, mishaps)
        assert study.done
    return records(folder)


class Killed(BaseException):
    pass


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, appends: int, torn: bool) -> Iterator[None]:
    """Dies at the append after so many, either before it or in the middle of its line."""
    write = optuna.storages.journal.JournalFileBackend.append_logs
    left = iter(range(appends))

    def append(self: Any, logs: list[dict[str, Any]]) -> None:
        if next(left, None) is not None:
            return write(self, logs)
        if torn:
            with Path(self._file_path).open("ab") as file:
                file.write(b'{"op_code":4,"worker_id":"00')
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", append)
        yield
