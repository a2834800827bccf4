"""Journal file of the study, without torn lines; a trial is written as one record."""

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
OPTUNA_LOCK_SECONDS = 0.5
"""Time that another living process, such as `optuna-dashboard`, gets to release Optuna's lock."""
DRAFT = -1
"""Trial id of the draft, which is not in the journal."""


def cut_torn_line(path: Path) -> int:
    """Cut off an unfinished last line, as left by a kill or a full disk; return its size in bytes.

    Optuna opens a journal with such a line without an error, and its next append then damages the
    file for good. Nothing is lost, because results are used only after their line is complete.

    Raises:
        InputError: If a line before the last one is damaged; the file is not changed.
    """
    intact_bytes, damaged_line = 0, 0
    with path.open("r+b") as file:
        for number, line in enumerate(file, start=1):
            if damaged_line:
                raise InputError(
                    f"{path}, line {damaged_line}: not a record of an Optuna journal; "
                    "restore the file from a copy or give the sweep another name."
                )
            if _is_record(line):
                intact_bytes += len(line)
            else:
                damaged_line = number
        size = file.seek(0, os.SEEK_END)
        if damaged_line:
            file.truncate(intact_bytes)
            os.fsync(file.fileno())
    return size - intact_bytes


def _is_record(line: bytes) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "op_code" in record


def remove_optuna_lock(path: Path) -> None:
    """Remove the lock of a process that died in an append; Optuna would wait 30 s for it."""
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + OPTUNA_LOCK_SECONDS
    while lock.is_symlink() and time.monotonic() < deadline:
        time.sleep(0.02)
    lock.unlink(missing_ok=True)
    for renamed in path.parent.glob(f"{path.name}.lock*.rename"):
        renamed.unlink(missing_ok=True)


class JournalFile(JournalFileBackend):
    """Optuna's journal file. A failed append, as on a full disk, leaves no half line behind."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records; cut off the half line if that fails."""
        try:
            super().append_logs(logs)
        except OSError:
            cut_torn_line(Path(self._file_path))
            raise


class Journal(JournalStorage):
    """Optuna's journal storage with a draft: a trial sampled in memory, then added as one record.

    Optuna itself writes a trial parameter by parameter. If it is killed in between, the remaining
    parameters are drawn from another state of the random generator. Here such a trial is not in
    the journal at all and is drawn again from the start.

    Args:
        path: The journal file; it is made if needed.

    Raises:
        InputError: If a line before the last one is damaged.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            cut_torn_line(path)
        remove_optuna_lock(path)
        self._draft = create_trial(state=TrialState.RUNNING)
        super().__init__(JournalFile(str(path)))

    def draft(self, study: optuna.Study) -> optuna.Trial:
        """Return a new draft, on which the study's sampler draws; the last draft is dropped."""
        self._draft = create_trial(state=TrialState.RUNNING)
        return optuna.Trial(study, DRAFT)

    def add(
        self,
        study: int,
        draft: optuna.Trial | FrozenTrial,
        user_attrs: Mapping[str, Any],
        result_of: FrozenTrial | None = None,
    ) -> FrozenTrial:
        """Write a trial as the study's next one, in one record, and return it.

        Args:
            study: Optuna's id of the study.
            draft: The draft, or a trial whose parameters are used once more.
            user_attrs: The new trial's attributes.
            result_of: Trial whose result the new one gets; None for a RUNNING trial.
        """
        state = result_of.state if result_of else TrialState.RUNNING
        record = create_trial(
            state=state,
            value=result_of.value if result_of else None,
            intermediate_values=result_of.intermediate_values if result_of else {},
            params=draft.params,
            distributions=draft.distributions,
            user_attrs=dict(user_attrs),
        )
        return self.get_trial(self.create_new_trial(study, template_trial=record))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """Return the trial with this id, which may be the draft's."""
        return self._draft if trial_id == DRAFT else super().get_trial(trial_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Store a parameter; parameters of the draft stay in memory, in its `Trial`."""
        if trial_id != DRAFT:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Store a system attribute; those of the draft are for other processes and are dropped."""
        if trial_id != DRAFT:
            super().set_trial_system_attr(trial_id, key, value)
