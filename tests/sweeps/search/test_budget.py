"""Limits that end a sweep early: each reason is one sentence that names the way to continue."""

import re
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweeps.search import budget as module
from sweeps.search.budget import FREE_BYTES, RESERVE_SECONDS, Limits
from sweeps.search_file import BudgetSection

Usage = namedtuple("Usage", "free")


def study_with_failures(*reasons: str) -> Any:
    failures = [SimpleNamespace(user_attrs={"reason": reason}) for reason in reasons]
    return SimpleNamespace(record=SimpleNamespace(failures=lambda: failures))


def limits(
    seconds: float = 0.0,
    gb: float = 0.0,
    study: Any = None,
    folder: Any = "runs/demo",
    **budget: Any,
) -> Limits:
    clock, kept_weights = SimpleNamespace(seconds=seconds), SimpleNamespace(gb=gb)
    return Limits(
        BudgetSection(**budget),
        Path("runs/demo"),
        study or study_with_failures(),
        kept_weights,
        clock,
    )


@pytest.fixture(autouse=True)
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(FREE_BYTES))


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
    assert limits(gb=5.26).halt() == (
        "runs/demo holds 5.3 GB, more than budget.disk_gb = 5: raise it"
    )
    assert limits(gb=5.26, disk_gb=None).halt() is None


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
