"""Limits that end a sweep early: each reason is one sentence that names the way to continue."""

import re
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.planning.disk import DiskNeed
from sweeps.search import budget as module
from sweeps.search.budget import RESERVE_SECONDS, Limits
from sweeps.search_file import BudgetSection
from sweeps.storage.disk_space import FREE_BYTES

Usage = namedtuple("Usage", "free")


NEED = DiskNeed(
    trials=100,
    predictions_bytes=2 * 10**9,
    kept=40,
    weights_bytes=6 * 10**9,
    running_bytes=10**9,
)


class Weights:
    """Stand-in for kept weights: each of the removable trials has half a gigabyte of weights."""

    def __init__(self, gb: float, removable: int = 0) -> None:
        self.gb, self.keep = gb, 5 + removable

    def keep_fewer(self) -> bool:
        if self.keep == 5:
            return False
        self.keep -= 1
        self.gb -= 0.5
        return True

    def removable_bytes(self) -> int:
        return (self.keep - 5) * 5 * 10**8


def study_with_failures(*reasons: str) -> Any:
    failures = [SimpleNamespace(user_attrs={"reason": reason}) for reason in reasons]
    record = SimpleNamespace(failures=lambda: failures)
    return SimpleNamespace(record=record, has_next=lambda: True, refitting=False)


def limits(
    seconds: float = 0.0,
    gb: float = 0.0,
    study: Any = None,
    removable: int = 0,
    **budget: Any,
) -> Limits:
    clock: Any = SimpleNamespace(seconds=seconds)
    kept_weights: Any = Weights(gb, removable)
    section = BudgetSection(**budget)
    study = study or study_with_failures()
    return Limits(section, Path("runs/demo"), study, kept_weights, clock, NEED)


@pytest.fixture(autouse=True)
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    enough = FREE_BYTES + NEED.running_bytes
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(enough))


def test_a_sweep_within_its_budget_continues():
    within = limits(59.9, 5.0, study_with_failures("a", "b"), minutes=1.0, disk_gb=5.0, failures=2)
    assert within.spent() is None
    assert within.halt() is None


def test_training_time_is_unlimited_without_budget_minutes():
    assert limits(1e9).spent() is None


@pytest.mark.parametrize("seconds", [60.0, 1e6])
def test_spent_minutes_stop_running_trials_too(seconds):
    spent = limits(seconds, minutes=1.0)
    assert spent.spent() == "budget.minutes = 1 of training are spent: raise it to go on"
    assert spent.halt() == spent.spent()


def test_too_many_failures_start_no_trials_but_let_running_ones_end():
    ended = limits(
        study=study_with_failures("ValueError: first", "ValueError: second"),
        failures=1,
        minutes=1.0,
    )
    assert ended.spent() is None
    assert ended.halt() == (
        "2 trials failed, more than budget.failures = 1; the last: ValueError: second; "
        "raise budget.failures, or train them again with --retry-failed"
    )


def test_a_run_folder_above_disk_gb_halts_the_sweep():
    assert limits(gb=5.26, disk_gb=5).halt() == (
        "runs/demo holds 5.3 GB, more than budget.disk_gb = 5: raise it"
    )
    assert limits(gb=5.26, disk_gb=None).halt() is None


@pytest.mark.parametrize("trials", [1, 3])
def test_ample_disk_has_room_for_trials_of_the_largest_model(trials, monkeypatch):
    least = FREE_BYTES + trials * NEED.running_bytes + NEED.predictions_bytes
    for free, ample in ((least, True), (least - 1, False)):
        monkeypatch.setattr(module.shutil, "disk_usage", lambda folder, free=free: Usage(free))
        assert limits().ample_disk(trials) is ample


def test_a_small_run_folder_is_named_with_its_size():
    assert limits(gb=0.00183, disk_gb=0.0017).halt() == (
        "runs/demo holds 0.0018 GB, more than budget.disk_gb = 0.0017: raise it"
    )


def test_the_automatic_limit_is_what_the_plan_needs_with_a_margin():
    assert limits(gb=10.0).halt() is None  # 1.25 times 8 GB
    assert limits(gb=10.1).halt() == (
        "runs/demo holds 10.1 GB, more than budget.disk_gb = 10 (auto): raise it"
    )


def test_weights_of_beaten_trials_go_before_a_sweep_halts():
    short = limits(gb=6.2, disk_gb=5, removable=8)
    assert short.make_room() == (
        "runs/demo holds 6.2 GB, more than budget.disk_gb = 5; only the weights of each task's "
        "best 10 trials are kept from now on"
    )
    assert short.kept_weights.gb == pytest.approx(4.7)
    assert short.halt() is None
    assert short.make_room() is None


def test_a_sweep_halts_when_no_weights_can_be_removed_any_more():
    short = limits(gb=5.8, disk_gb=5, removable=2)
    assert "best 5 trials" in (short.make_room() or "")
    assert short.halt() is None
    short.kept_weights.gb = 5.2
    assert short.make_room() is None
    assert short.halt() == "runs/demo holds 5.2 GB, more than budget.disk_gb = 5: raise it"


def test_no_weights_go_if_the_sweep_would_halt_nevertheless(monkeypatch):
    """The removable weights are too small, or no trial is due."""
    short = limits(gb=6.2, disk_gb=5, removable=2)
    assert short.make_room() is None
    assert short.kept_weights.gb == 6.2
    assert short.halt() == "runs/demo holds 6.2 GB, more than budget.disk_gb = 5: raise it"
    failed = limits(0.0, 6.2, study_with_failures("a", "b"), 8, disk_gb=5, failures=1)
    assert failed.make_room() is None
    assert limits(60.0, 6.2, removable=8, disk_gb=5, minutes=1).make_room() is None
    ended = limits(gb=6.2, disk_gb=5, removable=8)
    ended.study.has_next = lambda: False
    assert ended.make_room() is None
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(FREE_BYTES - 6 * 10**8))
    assert limits(disk_gb=None, removable=1).make_room() is None
    assert "best 5 trials" in (limits(disk_gb=None, removable=2).make_room() or "")


def test_no_weights_go_once_the_trials_to_train_on_folds_are_chosen():
    """Others would be fused than those that were trained on folds."""
    short = limits(gb=6.2, disk_gb=5, removable=8)
    short.study.refitting = True
    assert short.make_room() is None
    assert short.kept_weights.keep == 13
    assert short.halt() is not None


def test_a_disk_without_room_for_the_number_of_kept_trials_halts_the_sweep(monkeypatch):
    full = limits(disk_gb=None, removable=8)

    def keep_fewer() -> bool:
        raise OSError(28, "No space left on device")

    full.kept_weights.keep_fewer = keep_fewer
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(0))
    assert full.make_room() is None
    assert full.halt() == "the disk of runs/demo has less than 0.5 GB left: free some"


def test_the_files_that_trials_still_write_need_room(monkeypatch):
    free = FREE_BYTES + 3 * 10**9
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(free))
    assert limits(disk_gb=None, removable=8).make_room(3 * 10**9) is None
    assert "less than 4.5 GB left" in (limits(disk_gb=None, removable=8).make_room(4 * 10**9) or "")


def test_no_weights_go_if_they_cannot_make_the_room_that_trials_need(monkeypatch):
    free = FREE_BYTES + 8 * 10**8
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(free))
    short = limits(disk_gb=None, removable=2)
    assert short.halt() is None
    assert short.make_room(2 * 10**9) is None
    assert short.kept_weights.keep == 7
    assert short.disk_full(2 * 10**9) == (
        "the disk of runs/demo has less than 2.5 GB left, which the next trial may need: free some"
    )
    assert short.disk_full(8 * 10**8) is None
    assert "best 5 trials" in (short.make_room(18 * 10**8) or "")


def test_weights_go_for_the_last_trial_too(monkeypatch):
    """It is no longer queued when the room for it is made."""
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(FREE_BYTES))
    last = limits(disk_gb=None, removable=2)
    last.study.has_next = lambda: False
    assert last.make_room() is None
    assert "best 5 trials" in (last.make_room(10**9) or "")


def test_weights_go_while_the_disk_has_no_room_for_the_files_of_another_trial(monkeypatch):
    within = limits(gb=3.0, disk_gb=None, removable=8)
    assert within.make_room(NEED.running_bytes) is None
    free = FREE_BYTES + NEED.running_bytes + 3 * 10**9 - 10**8

    def usage(folder: Path) -> Usage:
        return Usage(free - round(1e9 * within.kept_weights.gb))

    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    assert within.halt() is None  # it starts no trial when less than half a gigabyte is left
    assert within.make_room(NEED.running_bytes) == (
        "the disk of runs/demo has less than 1.5 GB left; only the weights of each task's best 12 "
        "trials are kept from now on"
    )


def test_a_full_disk_halts_the_sweep(monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(FREE_BYTES - 1))
    assert limits(disk_gb=None).halt() == (
        "the disk of runs/demo has less than 0.5 GB left: free some"
    )


def test_training_ends_a_minute_before_budget_until():
    now = datetime.now(UTC)
    soon = limits(until=now + timedelta(seconds=RESERVE_SECONDS - 5))
    assert soon.late() is not None
    assert soon.spent() == soon.halt() == soon.late()
    assert re.fullmatch(
        r"budget\.until = \S+ \S+ is reached, less the 60 s that the end takes: give a later one "
        "to go on",
        soon.late() or "",
    )
    later = limits(until=now + timedelta(seconds=RESERVE_SECONDS + 60))
    assert later.late() is later.spent() is later.halt() is None
    assert limits().late() is None
