import json
import os
import resource
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mtl.errors import InputError
from sweeps.study.journal import JOURNAL, Journal, cut_torn_line, read_journal
from tests.support import fake_sweep


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """Journal of one study with two finished trials."""
    path = tmp_path / JOURNAL
    study = optuna.create_study(storage=Journal(path), study_name="s")
    for value in (1.0, 2.0):
        study.tell(study.ask(), value)
    return path


def reopened(path: Path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=Journal(path))


@pytest.mark.parametrize(
    "tail",
    [b"{", b'{"op_code":4,"study', b'{"op_code":4}', b'{"op_code":4\n', b"\0" * 40, b"\xff\n"],
)
def test_a_torn_last_line_is_cut_off(journal: Path, tail: bytes) -> None:
    intact = journal.read_bytes()
    journal.write_bytes(intact + tail)
    study = reopened(journal)
    assert journal.read_bytes() == intact
    study.tell(study.ask(), 3.0)
    assert [t.value for t in reopened(journal).trials] == [1.0, 2.0, 3.0]


def test_a_journal_cut_anywhere_keeps_its_complete_lines(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # a sync takes 4 ms, and there are 1,000
    data = journal.read_bytes()
    for size in range(len(data)):
        journal.write_bytes(data[:size])
        cut = cut_torn_line(journal)
        kept = journal.read_bytes()
        assert kept == data[: data.rfind(b"\n", 0, size) + 1]
        assert cut == size - len(kept)


@pytest.mark.parametrize("tail", [b"", b'{"op_'])
@pytest.mark.parametrize("damage", [b"\n", b"{}\n", b"[4]\n", b'{"op_code":4,{"op_code":4}\n'])
def test_a_damaged_line_in_the_middle_is_refused(journal: Path, damage: bytes, tail: bytes) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    data = b"".join([lines[0], lines[1], damage, *lines[2:], tail])
    journal.write_bytes(data)
    with pytest.raises(InputError, match=f"{JOURNAL}, line 3: "):
        Journal(journal)
    assert journal.read_bytes() == data


CHOICES = '{"name":"CategoricalDistribution","attributes":{"choices":["a","b"]}}'
CREATE, STATE, EPOCH, ATTRIBUTE = (
    {"op_code": 4, "study_id": 0, "datetime_start": None},
    {"op_code": 6, "trial_id": 0, "values": None, "datetime_complete": "2026-01-01"},
    {"op_code": 7, "trial_id": 0, "step": 1, "intermediate_value": 0.5},
    {"op_code": 8, "trial_id": 0, "user_attr": {"seconds": 3}},
)


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"op_code": 99}, "op_code = 99 is none of 0 to 9"),
        ({"op_code": True}, "op_code = True is none of 0 to 9"),
        ({"op_code": []}, r"op_code = \[\] is none"),
        ({"op_code": 10**400}, r"op_code = 10*\.\.\. is none"),
        ({"op_code": 0, "study_name": "s"}, "directions is missing"),
        ({"op_code": 0, "study_name": "s", "directions": [5]}, "directions.0 = 5 is refused"),
        ({"op_code": 0, "study_name": "s", "directions": [1, 2]}, "directions = .* at most 1 item"),
        ({"op_code": 1, "study_id": "0"}, "study_id = '0' is refused"),
        ({"op_code": 2, "study_id": 0, "user_attr": {}}, "user_attr = {} is refused: it must have"),
        ({"op_code": 3, "study_id": 0}, "system_attr is missing"),
        ({"op_code": 4, "study_id": 0}, "datetime_start is missing"),
        (
            {**CREATE, "datetime_start": "now"},
            "datetime_start = 'now' is refused: it must be a date",
        ),
        ({**CREATE, "datetime_start": "0001-01-01"}, "datetime_start = '0001-01-01' is refused"),
        ({**CREATE, "state": 7}, "state = 7 is refused"),
        ({**CREATE, "state": 1}, "value is missing, but the trial is COMPLETE"),
        ({**CREATE, "distributions": {"x": "{}"}}, "distributions.x = '{}' is refused: it is no"),
        ({**CREATE, "distributions": {"x": "[" * 10**5}}, "distributions.x = .* it is no distri"),
        ({**CREATE, "params": {"x": 1}}, "distributions.x is missing"),
        ({**CREATE, "distributions": {"x": CHOICES}, "params": {"x": 2}}, "params.x = 2.0 is the"),
        ({**CREATE, "distributions": {"x": CHOICES}, "params": {"x": -1}}, "params.x = -1.0 is"),
        ({**CREATE, "intermediate_values": {"a": 1}}, "intermediate_values.a.* is refused"),
        ({**CREATE, "user_attrs": {"overrides": "x=1"}}, "user_attrs.overrides = 'x=1' is refused"),
        ({**CREATE, "user_attrs": {"signature": "../x"}}, "user_attrs.signature = '../x' is refus"),
        ({**CREATE, "user_attrs": None}, "user_attrs = None is refused"),
        ({"op_code": 5, "trial_id": 0, "param_name": "x"}, "param_value_internal is missing"),
        (
            {"op_code": 5, "trial_id": 0, "param_name": "x", "param_value_internal": 3}
            | {"distribution": CHOICES},
            "param_value_internal = 3.0 is the index of none of 2 choices",
        ),
        (STATE, "state is missing"),
        ({**STATE, "state": 1}, "values is missing, but the trial is COMPLETE"),
        ({**STATE, "state": 1, "values": [float("nan")]}, "values.0 = nan is refused"),
        ({**STATE, "state": 3, "datetime_complete": ""}, "datetime_complete = '' is refused"),
        ({"op_code": 6, "trial_id": 0, "state": 3, "values": None}, "datetime_complete is missing"),
        ({**STATE, "state": 0}, "datetime_start is missing"),
        ({**EPOCH, "trial_id": None}, "trial_id = None is refused"),
        ({**EPOCH, "trial_id": 2}, "trial_id = 2 is of no trial in the lines before"),
        ({**EPOCH, "step": 1.5}, "step = 1.5 is refused"),
        ({**EPOCH, "intermediate_value": "0.5"}, "intermediate_value = '0.5' is refused"),
        ({**EPOCH, "worker_id": None}, "worker_id = None is refused"),
        ({**ATTRIBUTE, "user_attr": {"fold": "3"}}, "user_attr.fold = '3' is refused"),
        ({**ATTRIBUTE, "user_attr": [3]}, r"user_attr = \[3\] is refused"),
        ({"op_code": 9, "trial_id": 0}, "system_attr is missing"),
    ],
)
def test_a_record_that_optuna_would_not_write_is_refused(
    journal: Path, record: dict[str, Any], fault: str
) -> None:
    """The record is the last line of the file: it is complete, so it is not cut off."""
    data = journal.read_bytes()
    line = json.dumps({"worker_id": "w", **record}).encode() + b"\n"
    journal.write_bytes(data + line)
    for read in (Journal, read_journal):
        with pytest.raises(InputError, match=f"{JOURNAL}, line 6: {fault}") as refused:
            read(journal)
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 300 + len(str(journal))
        assert journal.read_bytes() == data + line


def test_each_field_of_each_record_of_a_sweep_is_needed_or_may_be_absent(tmp_path: Path) -> None:
    """Without any one field or with another value there, the journal is refused or can be used."""
    fake_sweep.run(tmp_path, trials=3, collapse=True)
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    refused = 0
    for number, line in enumerate(lines):
        record = json.loads(line)
        changed = [{k: v for k, v in record.items() if k != key} for key in record]
        changed += [{**record, key: value} for key in record for value in (None, [7], {"a": 1}, -1)]
        for other in changed:
            damaged = json.dumps(other).encode() + b"\n"
            path.write_bytes(b"".join([*lines[:number], damaged, *lines[number + 1 :]]))
            try:
                fake_sweep.opened(tmp_path).close()
            except InputError as error:
                refused += f"{JOURNAL}, line {number + 1}: " in str(error)
    assert refused > 4 * len(lines)


@pytest.mark.parametrize("name", ["overrides", "signature"])
def test_a_trial_of_a_sweep_without_its_attributes_is_refused(tmp_path: Path, name: str) -> None:
    fake_sweep.run(tmp_path, trials=2)
    path = tmp_path / JOURNAL
    path.write_text(path.read_text().replace(f'"{name}"', '"other"'))
    with pytest.raises(InputError, match=f"{JOURNAL}, line 2: user_attrs.{name} is missing"):
        fake_sweep.opened(tmp_path)
    with pytest.raises(InputError, match=f"{JOURNAL}, line 2: user_attrs.{name} is missing"):
        read_journal(path, [name])


@pytest.mark.parametrize("tail", [b"", b"{", b'{"op_code":4}', b"\xff\n", b"[" * 10**5 + b"\n"])
def test_a_journal_is_read_without_its_torn_last_line_and_not_changed(
    journal: Path, tail: bytes
) -> None:
    data = journal.read_bytes() + tail
    journal.write_bytes(data)
    storage = read_journal(journal)
    found = optuna.load_study(study_name="s", storage=storage).trials
    assert found == reopened(journal).trials
    assert [trial.value for trial in found] == [1.0, 2.0]
    journal.write_bytes(data)
    read_journal(journal)
    assert journal.read_bytes() == data


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b'{"a":1}\n', b"[]\n", b'{"op_code":4,"st\n'])
def test_a_damaged_line_is_refused_by_every_reader(journal: Path, damage: bytes) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], damage, *lines[1:]]))
    for read in (Journal, read_journal):
        with pytest.raises(InputError, match=f"{JOURNAL}, line 2: not a record of an Optuna jour"):
            read(journal)


def test_a_folder_in_the_place_of_a_journal_is_refused(tmp_path: Path) -> None:
    for read in (Journal, read_journal):
        with pytest.raises(InputError, match="cannot be read as a journal: Is a directory"):
            read(tmp_path)


def test_the_lock_of_a_dead_process_is_removed_at_once(journal: Path) -> None:
    lock = journal.with_name(JOURNAL + ".lock")
    lock.symlink_to(journal)
    renamed_lock = journal.with_name(JOURNAL + ".lock0123.rename")
    renamed_lock.symlink_to(journal)
    start = time.monotonic()
    study = reopened(journal)
    study.tell(study.ask(), 3.0)
    assert time.monotonic() - start < 5
    assert not lock.is_symlink()
    assert not renamed_lock.is_symlink()


def test_a_full_disk_leaves_no_half_line(journal: Path) -> None:
    study = reopened(journal)
    before = journal.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            study.ask()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.read_bytes() == before
    study.tell(study.ask(), 3.0)
    assert [t.value for t in reopened(journal).trials] == [1.0, 2.0, 3.0]


def test_a_draft_is_written_as_one_line_or_not_at_all(journal: Path) -> None:
    storage = Journal(journal)
    study = optuna.load_study(study_name="s", storage=storage)
    before = journal.read_bytes()
    draft = storage.draft(study, {})
    x = draft.suggest_float("x", 1e-5, 1e-1, log=True)
    n = draft.suggest_int("n", 1, 4)
    c = draft.suggest_categorical("c", ["a", "b"])
    assert journal.read_bytes() == before
    study_id = storage.get_study_id_from_name("s")
    added = storage.add(study_id, draft, {"signature": "f00"})
    assert journal.read_bytes().count(b"\n") == before.count(b"\n") + 1
    assert added.number == 2
    read = reopened(journal).trials[2]
    assert read.state == TrialState.RUNNING
    assert read.params == {"x": x, "n": n, "c": c}
    assert read.distributions == draft.distributions
    assert read.user_attrs == {"signature": "f00"}


def test_drafts_get_the_parameters_that_optuna_draws(tmp_path: Path) -> None:
    """TPE draws the same on drafts and on Optuna's trials, with a choice and past the startup."""

    def sample(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        if trial.suggest_categorical("branch", ["a", "b"]) == "a":
            x += trial.suggest_int("branch=a/n", 1, 9)
        return x

    storage = Journal(tmp_path / JOURNAL)
    ours = optuna.create_study(storage=storage, study_name="ours")
    study_id = storage.get_study_id_from_name("ours")
    plain = optuna.create_study(study_name="plain")
    for number in range(12):
        make = optuna.samplers.TPESampler
        ours = optuna.load_study(
            study_name="ours", storage=storage, sampler=make(n_startup_trials=4, seed=number)
        )
        draft = storage.draft(ours, {})
        value = sample(draft)
        ours.tell(storage.add(study_id, draft, {}).number, value)
        plain.sampler = make(n_startup_trials=4, seed=number)
        plain.optimize(sample, n_trials=1)
    assert [t.params for t in ours.trials] == [t.params for t in plain.trials]
    assert {len(t.params) for t in ours.trials} == {2, 3}
