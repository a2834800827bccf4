"""What ends a sweep before its last trial, in one sentence that says how to go on."""

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


def failed(*reasons: str) -> Any:
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
        BudgetSection(**budget), Path("runs/demo"), study or failed(), kept_weights, clock
    )


@pytest.fixture(autouse=True)
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(FREE_BYTES))


def test_within_its_budget_a_sweep_goes_on():
    within = limits(59.9, 5.0, failed("a", "b"), minutes=1.0, disk_gb=5.0, failures=2)
    assert within.spent() is None
    assert within.halt() is None


def test_without_a_budget_of_minutes_none_is_ever_spent():
    assert limits(1e9).spent() is None


@pytest.mark.parametrize("seconds", [60.0, 1e6])
def test_minutes_that_are_spent_end_training_too(seconds):
    spent = limits(seconds, minutes=1.0)
    assert spent.spent() == "budget.minutes = 1 of training are spent: raise it to go on"
    assert spent.halt() == spent.spent()


def test_too_many_failures_take_up_no_more_but_let_training_end():
    ended = limits(study=failed("ValueError: first", "ValueError: second"), failures=1, minutes=1.0)
    assert ended.spent() is None
    assert ended.halt() == (
        "2 trials failed, more than budget.failures = 1; the last: ValueError: second; "
        "raise budget.failures, or train them again with --retry-failed"
    )


def test_a_folder_over_its_size():
    assert limits(gb=5.26).halt() == (
        "runs/demo holds 5.3 GB, more than budget.disk_gb = 5: raise it"
    )
    assert limits(gb=5.26, disk_gb=None).halt() is None


def test_a_full_disk(monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: Usage(FREE_BYTES - 1))
    assert limits(disk_gb=None).halt() == (
        "the disk of runs/demo has less than 0.5 GB left: free some"
    )


def test_until_ends_training_a_minute_before_so_that_all_is_written_by_then():
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
