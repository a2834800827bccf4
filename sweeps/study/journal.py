"""Optuna's journal file, protected against half-written lines.

A journal has one record per line. A trial is written with all its parameters as one record.
"""

import io
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from mtl.errors import InputError
from sweeps.study.line_fields import CREATE_TRIAL, find_fault

JOURNAL = "study.journal"
OPTUNA_LOCK_SECONDS = 0.5
"""Seconds to wait for a running process, such as `optuna-dashboard`, to release Optuna's lock."""
REMEDY = "restore the file from a copy or give the sweep another name"
"""Fix that messages about a damaged journal name."""
DRAFT = -1
"""Trial id of the draft (trial that is being sampled in memory), which is not in the journal."""


def checked_records(
    lines: Iterable[bytes], path: Path, required: Sequence[str] = ()
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each record of a journal with its length in bytes, after checking its fields.

    A half-written last line, as left by a kill or a full disk, is left out.

    Args:
        lines: The journal's lines, with their line ends.
        path: The journal file, for messages.
        required: Names of user attributes that every trial must have.

    Raises:
        InputError: If another line is no record that Optuna could write; the message names the
            file, the line and the fault.
    """
    incomplete = trials = 0
    for number, line in enumerate(lines, start=1):
        record = _parsed(line)
        if incomplete:
            raise _damaged(path, incomplete, "not a record of an Optuna journal")
        if record is None:
            incomplete = number
            continue
        if fault := find_fault(record, trials, required):
            raise _damaged(path, number, fault)
        trials += record["op_code"] == CREATE_TRIAL
        yield record, len(line)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """Return the record of a complete line, which has an ``op_code``; None if it holds none."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "op_code" in record else None


def _damaged(path: Path, line: int, fault: str) -> InputError:
    return InputError(f"{path}, line {line}: {fault}; {REMEDY}")


def cut_torn_line(path: Path, required: Sequence[str] = ()) -> int:
    """Cut off a half-written last line of a journal file, as left by a kill or a full disk.

    Optuna opens a journal with such a line without an error, and its next append then damages the
    file for good. No result is lost, because results are used only after their line is complete.

    Args:
        path: The journal file.
        required: Names of user attributes that every trial must have.

    Returns:
        Number of bytes that were cut off.

    Raises:
        InputError: If another line is damaged, or the file cannot be read; it is not changed.
    """
    with _opened(path, "r+b") as file:
        intact_bytes = sum(size for _, size in checked_records(file, path, required))
        size = file.seek(0, os.SEEK_END)
        if size > intact_bytes:
            file.truncate(intact_bytes)
            os.fsync(file.fileno())
    return size - intact_bytes


def read_journal(path: Path, required: Sequence[str] = ()) -> JournalStorage:
    """Return the content of a journal file, to which another process may be appending.

    The file is not changed, and the returned storage neither follows the file nor can be changed.
    A half-written last line is left out.

    Args:
        path: The journal file.
        required: Names of user attributes that every trial must have.

    Raises:
        InputError: If another line is damaged, or the file cannot be read.
    """
    with _opened(path, "rb") as file:
        lines = io.BytesIO(file.read())  # at once: the last line may be completed meanwhile
    return JournalStorage(_Records(record for record, _ in checked_records(lines, path, required)))


def _opened(path: Path, mode: str) -> BinaryIO:
    try:
        return cast(BinaryIO, path.open(mode))
    except OSError as error:
        raise InputError(f"{path} cannot be read as a journal: {error.strerror}") from None


class _Records(BaseJournalBackend):
    """Records of a journal that are read once, when Optuna opens it."""

    def __init__(self, records: Iterator[dict[str, Any]]) -> None:
        self._records = records

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return self._records  # from the second call on it is exhausted

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise AssertionError("this journal is only read")


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
        required: Names of user attributes that every trial in the file must have.

    Raises:
        InputError: If a line of the journal is damaged, except a half-written last one.
    """

    def __init__(self, path: Path, required: Sequence[str] = ()) -> None:
        if path.exists():
            cut_torn_line(path, required)
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
