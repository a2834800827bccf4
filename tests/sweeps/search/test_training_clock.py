"""Training clock: counted time, time lost by a kill, and damaged files."""

import json

import pytest

from sweeps.search.training_clock import WRITE_EVERY_SECONDS, TrainingClock


class Time:
    """Clock that a test sets by hand."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def now():
    return Time()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "training_seconds.json"


def ticks(clock, now, *steps):
    """Tick once for each step: seconds to wait, and True if a trial was in training in them."""
    for seconds, training in steps:
        now.seconds += seconds
        clock.tick(training)


def test_only_time_in_training_counts(path, now):
    clock = TrainingClock(path, now)
    # Time before the first tick, such as the start of Ray, is not training.
    ticks(clock, now, (30, True), (2, True), (10, False), (1.5, True))
    assert clock.seconds == 3.5


def test_several_starts_add_up_without_the_time_between_them(path, now):
    for _ in range(3):
        clock = TrainingClock(path, now)
        ticks(clock, now, (0, False), (0.1, True), (0.2, True))
        clock.close()
        now.seconds += 3600
    assert TrainingClock(path, now).seconds == pytest.approx(0.9)


def test_time_adds_up_after_a_restart_of_the_machine(path):
    """A monotonic clock restarts with the machine, so only differences within one start count."""
    for start in (5000.0, 3.0):
        now = Time()
        now.seconds = start
        clock = TrainingClock(path, now)
        ticks(clock, now, (0, False), (7, True))
        clock.close()
    assert TrainingClock(path, now).seconds == 14


def test_a_kill_loses_at_most_one_write_interval(path, now):
    clock = TrainingClock(path, now)
    clock.tick(False)
    for _ in range(1000):
        ticks(clock, now, (0.37, True))
        after_a_kill = TrainingClock(path, now).seconds
        assert -1e-3 <= clock.seconds - after_a_kill < WRITE_EVERY_SECONDS
    assert clock.seconds == pytest.approx(370)


def test_the_file_is_not_written_at_every_tick(path, now, monkeypatch):
    written = []
    monkeypatch.setattr(
        "sweeps.search.training_clock.write_json", lambda file, content: written.append(content)
    )
    clock = TrainingClock(path, now)
    ticks(clock, now, *[(0.1, True)] * 1001, *[(60, False)] * 100)
    assert 15 <= len(written) <= 100 / WRITE_EVERY_SECONDS


def test_fractions_of_a_second_are_kept(path, now):
    clock = TrainingClock(path, now)
    ticks(clock, now, (0, False), (1 / 3, True))
    clock.close()
    assert TrainingClock(path, now).seconds == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        '{"training_seconds": null}',
        '{"training_seconds": "7"}',
        '{"training_seconds": true}',
        '{"training_seconds": -1.0}',
        '{"training_seconds": NaN}',
        '{"training_seconds": Infinity}',
        b"\xff\xfe\x00",
    ],
)
def test_a_damaged_file_counts_as_zero_and_is_replaced(path, now, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    clock = TrainingClock(path, now)
    assert clock.seconds == 0
    ticks(clock, now, (0, False), (2, True))
    clock.close()
    assert json.loads(path.read_text()) == {"training_seconds": 2.0}


def test_nothing_is_written_before_the_first_write_interval(path, now):
    clock = TrainingClock(path, now)
    ticks(clock, now, (0, False), (1, True), (60, False))
    assert not path.exists()
