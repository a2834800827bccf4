"""Tune's view of the study: who trains next, in which slot, who is stopped, who goes on.

The study (``sweeps.study``) decides everything and remembers everything; this Searcher stands
between it, the slots and Tune.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import TrialState
from ray.tune.search import Searcher

from mtl.config import TrialConfig
from sweeps.records.messages import INTERRUPTED, Job
from sweeps.search.training_clock import TrainingClock
from sweeps.search.tune_trial import BEGUN, FAILED, LOST, RUNNING
from sweeps.slots.control import Stop
from sweeps.slots.pool import SlotPool
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import Proposal, SweepStudy

ENDS = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    FAILED: TrialState.FAIL,
}


class Watcher(Protocol):
    """What wants to know how the sweep goes."""

    def started(self, proposal: Proposal, job: Job) -> None:
        """A trial was handed to a slot."""

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """An epoch of it has ended."""

    def again(self, proposal: Proposal, reason: str) -> None:
        """It goes on after its last epoch, since what trained it is gone."""

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """It has ended: complete, pruned, failed or interrupted."""


@dataclass(frozen=True)
class Rules:
    """What the search needs to know of the sweep's settings.

    Attributes:
        sweep: Its name.
        folder: ``runs/<name>``.
        metric: ``score``, or the task whose score counts.
        restarts: How often a trial goes on whose workers or slot died.
        rungs: Epochs at which a trial may be pruned.
        compose: Overrides -> config.
        describe: The YAML that goes into a trial's folder.
        halt: Why the sweep should take up no more trials, or None; asked before each.
        spent: Why those in training should stop at their next epoch, or None; asked after each.
        late: Why they should stop at once, or None.
        ended: Told the signature of each trial that has ended, and whether it failed.
    """

    sweep: str
    folder: Path
    metric: str
    restarts: int
    rungs: Callable[[int], frozenset[int]]
    compose: Callable[[Sequence[str]], TrialConfig]
    describe: Callable[[Proposal, TrialConfig], str]
    halt: Callable[[], str | None]
    spent: Callable[[], str | None]
    late: Callable[[], str | None]
    ended: Callable[[str, bool], None]


class NotSaved:
    """Tune pickles what it is given, to restore it one day: the journal does that here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class _Running:
    proposal: Proposal
    job: Job
    slot: int


class StudySearcher(NotSaved, Searcher):
    """Tune's view of the study."""

    def __init__(
        self,
        study: SweepStudy,
        slots: SlotPool,
        rules: Rules,
        clock: TrainingClock,
        watcher: Watcher,
    ) -> None:
        super().__init__()
        self.study, self.slots, self.rules = study, slots, rules
        self.clock, self.watcher = clock, watcher
        self.halted: str | None = None
        self.pressed = False
        self._running: dict[str, _Running] = {}
        self._deaths: Counter[tuple[str, int]] = Counter()
        self._stopping = Stop.NOT

    def suggest(self, trial_id: str) -> Any:
        """The next trial for a free slot; None while there is none, FINISHED when all are out."""
        self._tick()
        self.stop_if_requested()
        slot = None if self.halted else self.slots.take()
        if slot is None and self.slots.gone:
            self.halted = self.halted or f"{self.slots.why_gone}: no slot is left"
        if slot is not None:
            self.halted = self.rules.halt()
        if self.halted:
            return str(Searcher.FINISHED)
        if slot is None:
            return None
        proposal = self.study.ask()
        if proposal is None:
            self.slots.release(slot)
            # A trial that runs may lose its slot and be handed out again.
            return None if self._running else str(Searcher.FINISHED)
        return self._start(trial_id, proposal, slot)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch, and answer a slot that waits for a decision."""
        self._tick()
        running = self._running[trial_id]
        proposal, slot = running.proposal, running.slot
        if result["state"] == BEGUN:
            self._begun(running, result)
        if result["state"] != RUNNING:
            return
        epoch: dict[str, Any] = json.loads(result["result"])
        metric = self.rules.metric
        value = epoch["objective"] if metric == "score" else epoch["best_scores"][metric]
        prune = self.study.report(proposal.study, proposal.number, epoch["epoch"], value)
        if epoch["epoch"] in running.job.rungs:
            self.slots.actor(slot).decide.remote(running.job.name, epoch["epoch"], prune)
        self.watcher.epoch(proposal, epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record a trial's end; an interrupted one stays as it is, to be taken up again."""
        self._tick()
        running = self._running.pop(trial_id)
        proposal, slot = running.proposal, running.slot
        if result is None or error:
            result = {"state": LOST, "reason": "Tune's side of it died"}
        state: str = result["state"]
        reason: Any = result.get("reason")
        lost = state == LOST
        if lost:
            state = self._lost(proposal)
        if state in ENDS:
            if state == FAILED:
                self._folder(proposal).failed(str(reason))
            self.study.tell(proposal.study, proposal.number, ENDS[state], reason)
            self.rules.ended(proposal.signature, state == FAILED)
        if state == LOST:
            self.watcher.again(proposal, reason)
        else:
            self.watcher.ended(proposal, state, reason)
        if lost:
            self.slots.lose(slot, replace=not self.halted)
        else:
            self.slots.release(slot)

    def stop(self, why: str, when: Stop) -> None:
        """Take up nothing more and end what runs, resumably."""
        self.halted, self._stopping = why, when
        self.slots.stop(when)

    def stop_if_requested(self) -> None:
        """Stop at once, if Ctrl-C was pressed or the time is up."""
        if self.pressed and self.halted != INTERRUPTED:
            self.stop(INTERRUPTED, Stop.NOW)
        late = self.rules.late()
        if late and self._stopping != Stop.NOW:
            self.stop(self.halted or late, Stop.NOW)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""

    def _tick(self) -> None:
        """Time goes by, whatever else happens: the budget of minutes may be spent."""
        self.clock.tick(bool(self._running))
        spent = self.rules.spent()
        if spent and self._stopping == Stop.NOT:
            self.stop(self.halted or spent, Stop.AFTER_EPOCH)

    def _begun(self, running: _Running, result: Mapping[str, Any]) -> None:
        """The workers of a group have come; the first time, or since the last ones died."""
        self.slots.placed(running.slot, result["placement_group"])
        if result["restarts"]:
            key = (running.proposal.study, running.proposal.number)
            self._deaths[key] = self.rules.restarts - running.job.restarts + result["restarts"]
            self.watcher.again(running.proposal, "its workers died")

    def _lost(self, proposal: Proposal) -> str:
        """What becomes of a trial whose slot died: it is put back, or has failed."""
        key = (proposal.study, proposal.number)
        self._deaths[key] += 1
        if self._deaths[key] > self.rules.restarts:
            return FAILED
        self.study.put_back(*key)
        return LOST

    def _folder(self, proposal: Proposal) -> TrialFolder:
        return TrialFolder(self.rules.folder / "trials" / proposal.signature)

    def _start(self, trial_id: str, proposal: Proposal, slot: int) -> dict[str, Any]:
        config = self.rules.compose(proposal.overrides)
        folder = self._folder(proposal)
        folder.begin(self.rules.describe(proposal, config))
        job = Job(
            name=trial_name(proposal, config),
            config=config.plain(),
            rungs=frozenset() if proposal.unpruned else self.rules.rungs(config.training.epochs),
            reported=max(proposal.reported, default=0),
            stopped=proposal.stopped,
            fold=proposal.fold,
            restarts=self.rules.restarts - self._deaths[proposal.study, proposal.number],
        )
        self._running[trial_id] = _Running(proposal, job, slot)
        self.watcher.started(proposal, job)
        fields = {k: v for k, v in asdict(job).items() if k not in ("checkpoint", "weights")}
        return {"slot": self.slots.actor(slot), "folder": str(folder.path), "job": fields}


def trial_name(proposal: Proposal, config: TrialConfig) -> str:
    """``demo/0003 gru mlp share_encoder``, as Ray's dashboard lists it."""
    parts = (config.encoder.name, config.head.name, config.framework.name)
    return f"{proposal.study}/{proposal.number:04d} {' '.join(parts)}"
