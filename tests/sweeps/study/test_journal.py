import os
import resource
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from mtl.errors import InputError
from sweeps.study.journal import JOURNAL, Journal, cut_torn_line


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
