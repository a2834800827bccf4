"""Progress of a sweep: a live table on a terminal, one line per event elsewhere."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.records.messages import Job
from sweeps.search.watcher import Watcher
from sweeps.search_file.overrides import values_by_path, varied_paths
from sweeps.study import Proposal, SweepStudy
from sweeps.study.proposal import COLLAPSED

ROWS = 20
"""Largest number of trials that the live table shows."""


@dataclass
class _TrialRow:
    name: str
    settings: Mapping[str, str]
    epochs: int
    epoch: int = 0
    score: float | None = None
    state: str = "running"
    started: float = field(default_factory=time.monotonic)


class LiveTable(Watcher):
    """Live table of a search's trials on the terminal; a context manager that starts and ends it.

    Args:
        study: The sweep's study, which counts planned and ended trials.
        console: Console of rich to print to; standard output if None.
    """

    def __init__(self, study: SweepStudy, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._study, self._ended_before = study, study.record.ended()
        self._rows: dict[tuple[str, int], _TrialRow] = {}
        self._started = time.monotonic()
        self._live = Live(console=self.console, refresh_per_second=2, get_renderable=self.render)

    def __enter__(self) -> "LiveTable":
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.console.is_terminal:
            self._live.__exit__(*error)

    def started(self, proposal: Proposal, job: Job) -> None:
        """Show that a trial has started or continues.

        Args:
            proposal: The trial.
            job: The trial as it was sent to a slot (process or group of DDP workers).
        """
        row = _TrialRow(
            job.name,
            values_by_path(proposal.overrides),
            job.config["training"]["epochs"],
            job.reported,
        )
        self._rows[proposal.study, proposal.number] = row
        again = f", goes on after epoch {job.reported}" if job.reported else ""
        self._line(f"{job.name}: started{again} ({' '.join(proposal.overrides)})")

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """Show the score and the speed of an epoch.

        Args:
            proposal: The trial.
            result: Result with the keys ``epoch``, ``objective``, ``frames`` and ``seconds``.
        """
        row = self._rows[proposal.study, proposal.number]
        row.epoch, row.score = result["epoch"], result["objective"]
        rate = result["frames"] / result["seconds"]
        self._line(
            f"{row.name}: epoch {row.epoch}/{row.epochs}, score {row.score:.4f}, "
            f"{rate:,.0f} frames/s"
        )

    def again(self, proposal: Proposal, reason: str) -> None:
        """Show that a trial whose process died continues after its last epoch.

        Args:
            proposal: The trial.
            reason: What died, such as "its workers died".
        """
        row = self._rows[proposal.study, proposal.number]
        self.say(f"{row.name}: {reason}; it goes on after epoch {row.epoch}")

    def say(self, text: str) -> None:
        """Print a sentence above the table."""
        self.console.print(text, soft_wrap=True, markup=False)

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """Show the end of a trial.

        Args:
            proposal: The trial.
            state: "complete", "pruned", "failed" or "interrupted".
            reason: Cause of a failure, in one line; "collapsed" if the trial was pruned because all
                its tasks had collapsed; else None.
        """
        row = self._rows[proposal.study, proposal.number]
        row.state = COLLAPSED if reason == COLLAPSED else state
        score = "" if row.score is None else f", score {row.score:.4f}"
        why = f": {reason}" if reason else ""
        self._line(
            f"{row.name}: {state} at epoch {row.epoch}{score}{why} "
            f"[{self._study.record.ended()}/{self._study.planned}, {self._left()}]"
        )

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True, markup=False)

    def _left(self) -> str:
        """Return the time that the sweep still needs, estimated from the trials ended so far."""
        all_ended = self._study.record.ended()
        ended = all_ended - self._ended_before
        if not ended:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) / ended * (self._study.planned - all_ended)
        return f"{_duration(seconds)} left"

    def render(self) -> Group:
        """Return the display: a line with counts and times, above a table of the best trials."""
        rows = sorted(self._rows.values(), key=_rank)[:ROWS]
        so_far = _duration(time.monotonic() - self._started)
        counts = f"{self._study.record.ended()} of {self._study.planned} trials"
        head = f"{counts}, {so_far} so far, {self._left()}"
        return Group(Text(head), _table(rows))


def _rank(row: _TrialRow) -> tuple[bool, float]:
    return row.score is None, -(row.score or 0.0)


def _table(rows: list[_TrialRow]) -> Table:
    """Return a table of trials, with a column for each config key in which trials differ."""
    varied = varied_paths([row.settings for row in rows])
    table = Table(box=None, pad_edge=False)
    for column in ("trial", "state", "epoch", "score", *(path.split(".")[-1] for path in varied)):
        table.add_column(column, no_wrap=True)
    for row in rows:
        score = "" if row.score is None else f"{row.score:.4f}"
        values = [Text(_short(row.settings.get(path, ""))) for path in varied]
        number = row.name.split(" ")[0].split("/", 1)[-1]
        table.add_row(number, row.state, f"{row.epoch}/{row.epochs}", score, *values)
    return table


def _short(value: str) -> str:
    try:
        return f"{float(value):.3g}" if "." in value or "e" in value else value
    except ValueError:
        return value


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"
