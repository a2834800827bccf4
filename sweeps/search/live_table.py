"""How a sweep goes: one live table on a terminal, one line per event elsewhere."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.records.messages import Job
from sweeps.search_file.overrides import by_path, varied_paths
from sweeps.study import Proposal

ROWS = 20


@dataclass
class _TrialRow:
    name: str
    settings: Mapping[str, str]
    epochs: int
    epoch: int = 0
    score: float | None = None
    state: str = "running"
    started: float = field(default_factory=time.monotonic)


class Progress:
    """Watches a search. ``with`` it: the live table needs an end.

    Args:
        trials: How many there will be; more may become known.
        done: How many have ended, those of earlier starts and repeats included.
        console: Where to print.
    """

    def __init__(
        self, trials: Callable[[], int], done: Callable[[], int], console: Console | None = None
    ) -> None:
        self.console = console or Console(highlight=False)
        self.trials, self.done, self._before = trials, done, done()
        self._rows: dict[tuple[str, int], _TrialRow] = {}
        self._started = time.monotonic()
        self._live = Live(console=self.console, refresh_per_second=2, get_renderable=self._render)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self._live.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self.console.is_terminal:
            self._live.__exit__(*error)

    def started(self, proposal: Proposal, job: Job) -> None:
        """A trial was handed to a slot."""
        row = _TrialRow(
            job.name, by_path(proposal.overrides), job.config["training"]["epochs"], job.reported
        )
        self._rows[proposal.study, proposal.number] = row
        again = f", goes on after epoch {job.reported}" if job.reported else ""
        self._line(f"{job.name}: started{again} ({' '.join(proposal.overrides)})")

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """An epoch has ended."""
        row = self._rows[proposal.study, proposal.number]
        row.epoch, row.score = result["epoch"], result["objective"]
        rate = result["frames"] / result["seconds"]
        self._line(
            f"{row.name}: epoch {row.epoch}/{row.epochs}, score {row.score:.4f}, "
            f"{rate:,.0f} frames/s"
        )

    def again(self, proposal: Proposal, reason: str) -> None:
        """A trial goes on after its last epoch."""
        row = self._rows[proposal.study, proposal.number]
        self.say(f"{row.name}: {reason}; it goes on after epoch {row.epoch}")

    def say(self, text: str) -> None:
        """A sentence for the user, above the table."""
        self.console.print(text, soft_wrap=True, markup=False)

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """A trial has ended."""
        row = self._rows[proposal.study, proposal.number]
        row.state = state
        score = "" if row.score is None else f", score {row.score:.4f}"
        why = f": {reason}" if reason else ""
        self._line(
            f"{row.name}: {state} at epoch {row.epoch}{score}{why} "
            f"[{self.done()}/{self.trials()}, {self._left()}]"
        )

    def _line(self, text: str) -> None:
        if not self.console.is_terminal:
            self.console.print(text, soft_wrap=True, markup=False)

    def _left(self) -> str:
        """Time left, from the mean time of the trials that have ended since the start."""
        ended = self.done() - self._before
        if not ended:
            return "time left unknown"
        seconds = (time.monotonic() - self._started) / ended * (self.trials() - self.done())
        return f"{_duration(seconds)} left"

    def _render(self) -> Group:
        rows = sorted(self._rows.values(), key=_rank)[:ROWS]
        so_far = _duration(time.monotonic() - self._started)
        head = f"{self.done()} of {self.trials()} trials, {so_far} so far, {self._left()}"
        return Group(Text(head), _table(rows))


def _rank(row: _TrialRow) -> tuple[bool, float]:
    return row.score is None, -(row.score or 0.0)


def _table(rows: list[_TrialRow]) -> Table:
    """The rows, best first, with the settings that differ among them."""
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
