"""The study's file: no torn line, trials written whole or not at all."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from mtl.errors import InputError

JOURNAL = "study.journal"
# `optuna-dashboard` may hold Optuna's lock too, for one append: it gets this long to let go.
OPTUNA_LOCK_SECONDS = 0.5
DRAFT = -1  # Optuna's own id for a trial that is in no storage


def cut_torn_line(path: Path) -> int:
    """Cut off the unfinished last line that a kill or a full disk left; return its bytes.

    Optuna opens such a journal without a word and breaks it for good at the next append. A record
    counts only once its line is whole, so nothing that anyone was told of is lost.

    Raises:
        InputError: a line before the last is damaged; the file is left as it is.
    """
    whole, damaged = 0, 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if damaged:
                raise InputError(
                    f"{path}, line {damaged}: not a record of an Optuna journal; "
                    "restore the file from a copy or give the sweep another name."
                )
            if _is_record(line):
                whole += len(line)
            else:
                damaged = number
        size = file.seek(0, os.SEEK_END)
        if damaged:
            file.truncate(whole)
            os.fsync(file.fileno())
    return size - whole


def _is_record(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def remove_optuna_lock(path: Path) -> None:
    """Remove the lock that a process left when it died in an append: Optuna waits 30 s for it."""
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + OPTUNA_LOCK_SECONDS
    while lock.is_symlink() and time.monotonic() < deadline:
        time.sleep(0.02)
    lock.unlink(missing_ok=True)
    for left in path.parent.glob(f"{path.name}.lock*.rename"):
        left.unlink(missing_ok=True)


class JournalFile(JournalFileBackend):
    """Optuna's journal file; an append that fails (full disk) leaves no half line behind."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError:
            cut_torn_line(Path(self._file_path))
            raise


class Journal(JournalStorage):
    """Optuna's journal storage with a draft: a trial sampled in memory, then added as one record.

    Optuna itself writes a trial parameter by parameter. Killed in between, the rest would be drawn
    from another state of the generator; here that trial was never there, and is drawn anew.

    Raises:
        InputError: a line in the middle of the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            cut_torn_line(path)
        remove_optuna_lock(path)
        self._draft = create_trial(state=TrialState.RUNNING)
        super().__init__(JournalFile(str(path)))

    def draft(self, study: optuna.Study) -> optuna.Trial:
        """A trial to sample on with the study's sampler; it replaces the draft before it."""
        self._draft = create_trial(state=TrialState.RUNNING)
        return optuna.Trial(study, DRAFT)

    def add(
        self,
        study: int,
        draft: optuna.Trial | FrozenTrial,
        user_attrs: Mapping[str, Any],
        told: FrozenTrial | None = None,
    ) -> FrozenTrial:
        """Write the draft, or the parameters of a trial once more, as the study's next trial:
        RUNNING, or with the result of `told`.
        """
        state = told.state if told else TrialState.RUNNING
        record = create_trial(
            state=state,
            value=told.value if told else None,
            intermediate_values=told.intermediate_values if told else {},
            params=draft.params,
            distributions=draft.distributions,
            user_attrs=dict(user_attrs),
        )
        return self.get_trial(self.create_new_trial(study, template_trial=record))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Optuna's, and the draft."""
        return self._draft if trial_id == DRAFT else super().get_trial(trial_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Optuna's; a draft's parameters are kept by its `Trial`."""
        if trial_id != DRAFT:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Optuna's; a draft's are TPE's notes to other processes, and there are none."""
        if trial_id != DRAFT:
            super().set_trial_system_attr(trial_id, key, value)
