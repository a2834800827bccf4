"""Display of a sweep's progress: lines in a log, one small table on a terminal."""

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from sweeps.records.messages import Job
from sweeps.search.live_table import ROWS, LiveTable
from sweeps.study import Proposal


def a_trial(number: int, **settings: str) -> tuple[Proposal, Job]:
    overrides = tuple(f"{path}={value}" for path, value in settings.items())
    proposal = Proposal("demo", number, overrides, f"signature{number}", {})
    return proposal, Job(f"demo/{number:04d} gru mlp share_encoder", {"training": {"epochs": 12}})


def result(epoch: int, objective: float) -> dict[str, float]:
    return {"epoch": epoch, "objective": objective, "frames": 3000, "seconds": 1.5}


class Study:
    """Stand-in for a study: counts of planned and ended trials."""

    def __init__(self, planned: int, ended: int = 2) -> None:
        self.planned, self.count = planned, ended
        self.record = SimpleNamespace(ended=lambda: self.count)


@pytest.fixture
def log() -> tuple[LiveTable, Study, io.StringIO]:
    """Live table of a sweep of 5 trials, 2 ended before, with its study and its printed text."""
    text, study = io.StringIO(), Study(5)
    return LiveTable(study, Console(file=text, width=40)), study, text


def test_a_log_has_one_line_for_each_event(log):
    progress, study, text = log
    proposal, job = a_trial(2, encoder="gru", features="[appearance,geometry]")
    with progress:
        progress.started(proposal, job)
        progress.epoch(proposal, result(1, 0.51239))
        study.count += 1
        progress.ended(proposal, "pruned", None)
    started, epoch, ended = text.getvalue().splitlines()
    # A line longer than the console and with brackets is neither wrapped nor read as markup.
    assert started == (
        "demo/0002 gru mlp share_encoder: started (encoder=gru features=[appearance,geometry])"
    )
    assert epoch == "demo/0002 gru mlp share_encoder: epoch 1/12, score 0.5124, 2,000 frames/s"
    assert re.fullmatch(
        r"demo/0002 .*: pruned at epoch 1, score 0.5124 \[3/5, 0 min 00 s left\]", ended
    )


def test_a_failed_trial_shows_its_reason_and_a_resumed_one_its_epoch(log):
    progress, study, text = log
    proposal, job = a_trial(3)
    progress.started(proposal, Job(job.name, job.config, reported=7))
    study.count += 1
    progress.ended(proposal, "failed", "TrainingError: the loss is not finite")
    started, ended = text.getvalue().splitlines()
    assert ": started, goes on after epoch 7 ()" in started
    assert ": failed at epoch 7: TrainingError: the loss is not finite [3/5, " in ended


def test_a_continued_trial_shows_the_reason_and_its_last_epoch(log):
    progress, _, text = log
    proposal, job = a_trial(3)
    progress.started(proposal, job)
    progress.epoch(proposal, result(2, 0.5))
    progress.again(proposal, "its workers died")
    progress.say("slot 1 waits for [2] x CPUs")
    *_, again, message = text.getvalue().splitlines()
    assert again == "demo/0003 gru mlp share_encoder: its workers died; it goes on after epoch 2"
    assert message == "slot 1 waits for [2] x CPUs"


def test_the_time_left_follows_from_the_trials_ended_since_the_start(log, monkeypatch):
    progress, study, text = log
    now = time.monotonic()
    monkeypatch.setattr("sweeps.search.live_table.time.monotonic", lambda: now + 100)
    for number in (2, 3):
        progress.started(*a_trial(number))
    progress.ended(a_trial(2)[0], "interrupted", None)
    assert "[2/5, time left unknown]" in text.getvalue().splitlines()[-1]
    # A twin ends with its trial: two trials ended in 100 seconds, and one remains.
    study.count += 2
    progress.ended(a_trial(3)[0], "complete", None)
    assert "[4/5, 0 min 50 s left]" in text.getvalue().splitlines()[-1]


def test_a_terminal_shows_one_table_of_the_best_trials():
    text = io.StringIO()
    study = Study(40, 0)
    progress = LiveTable(study, Console(file=text, width=120, force_terminal=True))
    for number in range(30):
        proposal, job = a_trial(number, encoder=("gru", "lstm")[number % 2], head="mlp")
        progress.started(proposal, job)
        progress.epoch(proposal, result(3, number / 100))
        if number < 28:
            study.count += 1
            progress.ended(proposal, "complete", None)
    assert text.getvalue() == ""  # no log lines on a terminal
    shown = Console(width=120, file=io.StringIO())
    shown.print(progress.render())
    head, columns, *rows = shown.file.getvalue().splitlines()
    assert head.startswith("28 of 40 trials, ")
    assert head.rstrip().endswith(" left")
    assert columns.split() == ["trial", "state", "epoch", "score", "encoder"]
    assert len(rows) == ROWS == 20
    assert rows[0].split() == ["0029", "running", "3/12", "0.2900", "lstm"]
    scores = [float(row.split()[3]) for row in rows]
    assert scores == sorted(scores, reverse=True)


def test_a_collapsed_trial_is_shown_as_such(log):
    progress, _, text = log
    proposal, job = a_trial(3)
    progress.started(proposal, job)
    progress.epoch(proposal, result(2, 0.1))
    progress.ended(proposal, "pruned", "collapsed")
    assert ": pruned at epoch 2, score 0.1000: collapsed [" in text.getvalue().splitlines()[-1]
    shown = Console(width=120, file=io.StringIO())
    shown.print(progress.render())
    assert shown.file.getvalue().splitlines()[-1].split() == ["0003", "collapsed", "2/12", "0.1000"]


def test_the_live_table_is_drawn_and_ends():
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True, highlight=False)
    with LiveTable(Study(1, 0), console) as progress:
        progress.started(*a_trial(0))
        progress.again(a_trial(0)[0], "its workers died")
    assert "0 of 1 trials" in text.getvalue()
    # On a terminal, problems are printed above the table.
    assert "its workers died; it goes on after epoch 0" in text.getvalue()
