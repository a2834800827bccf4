"""Optuna's journal file, protected against half-written lines.

A journal has one record per line. A trial is written with all its parameters as one record.
"""

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
"""Seconds to wait for a running process, such as `optuna-dashboard`, to release Optuna's lock."""
DRAFT = -1
"""Trial id of the draft (trial that is being sampled in memory), which is not in the journal."""


def cut_torn_line(path: Path) -> int:
    """Cut off a half-written last line of a journal file, as left by a kill or a full disk.

    Optuna opens a journal with such a line without an error, and its next append then damages the
    file for good. No result is lost, because results are used only after their line is complete.

    Args:
        path: The journal file.

    Returns:
        Number of bytes that were cut off.

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
    """Remove the lock file that a dead process left beside a journal file.

    Optuna itself would wait 30 s for the release of the lock. This function waits at most half
    a second for a running process to release the lock.

    Args:
        path: The journal file.
    """
    lock = path.with_name(f"{path.name}.lock")
    deadline = time.monotonic() + OPTUNA_LOCK_SECONDS
    while lock.is_symlink() and time.monotonic() < deadline:
        time.sleep(0.02)
    lock.unlink(missing_ok=True)
    for renamed in path.parent.glob(f"{path.name}.lock*.rename"):
        renamed.unlink(missing_ok=True)


class JournalFile(JournalFileBackend):
    """Optuna's journal file, in which a failed append, as on a full disk, leaves no half line."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records to the journal file; if this fails, cut off the half-written line."""
        try:
            super().append_logs(logs)
        except OSError:
            cut_torn_line(Path(self._file_path))
            raise


class Journal(JournalStorage):
    """Optuna's journal storage with a draft: a trial sampled in memory, then added as one record.

    Optuna itself writes a trial parameter by parameter. If its process is killed in between, the
    remaining parameters are later drawn from another state of the random generator. With this
    class, a trial that is killed while it is sampled is not in the journal at all and is sampled
    again from its first parameter.

    Args:
        path: The journal file; it is made if needed.

    Raises:
        InputError: If a line before the journal's last one is damaged.
    """

    def __init__(self, path: Path) -> None:
        if path.exists():
            cut_torn_line(path)
        remove_optuna_lock(path)
        self._draft = create_trial(state=TrialState.RUNNING)
        super().__init__(JournalFile(str(path)))

    def draft(self, study: optuna.Study, given: Mapping[str, Any]) -> optuna.Trial:
        """Return a new draft (trial in memory) on which the study's sampler draws parameters.

        There is one draft at a time: an earlier one is dropped.

        Args:
            study: Optuna study of the sampler.
            given: Optuna's parameters that are not drawn, by name.
        """
        # The attribute with which Optuna's own `enqueue_trial` gives parameters.
        attributes = {"fixed_params": dict(given)}
        self._draft = create_trial(state=TrialState.RUNNING, system_attrs=attributes)
        return optuna.Trial(study, DRAFT)

    def add(
        self,
        study: int,
        draft: optuna.Trial | FrozenTrial,
        user_attrs: Mapping[str, Any],
        result_of: FrozenTrial | None = None,
    ) -> FrozenTrial:
        """Add a trial to a study, as one record of the journal, and return the trial.

        Args:
            study: Optuna's id of the study.
            draft: The draft (trial sampled in memory), or an earlier trial; its parameters are
                written.
            user_attrs: The new trial's user attributes.
            result_of: Ended trial that gives the new trial its state and values; None for a RUNNING
                trial.
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
        """Return the trial with this id; `DRAFT` is the id of the draft (trial in memory)."""
        return self._draft if trial_id == DRAFT else super().get_trial(trial_id)

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        """Write a parameter of a trial to the journal, unless the trial is the draft.

        The draft is a trial that is being sampled; its parameters stay in memory.
        """
        if trial_id != DRAFT:
            super().set_trial_param(trial_id, param_name, param_value_internal, distribution)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write a system attribute of a trial to the journal, unless the trial is the draft.

        The draft is a trial that is being sampled in memory; its system attributes are dropped.
        """
        if trial_id != DRAFT:
            super().set_trial_system_attr(trial_id, key, value)
