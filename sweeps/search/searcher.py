"""Searcher of Ray Tune that sends the study's trials to slots and records their results.

A slot is a process, or a group of DDP workers, that trains one trial after another. The study
(``sweeps.study``) chooses the trials and decides on pruning.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna.trial import TrialState
from ray.tune.search import Searcher

from mtl.config import TrialConfig
from sweeps.planning.compose import compose
from sweeps.planning.describe import trial_yaml
from sweeps.planning.disk import trial_bytes
from sweeps.planning.plan import Plan
from sweeps.records.messages import INTERRUPTED, Job, all_collapsed
from sweeps.search.budget import Limits
from sweeps.search.tune_trial import BEGUN, FAILED, LOST, RUNNING
from sweeps.search.watcher import Watcher
from sweeps.slots.control import Stop
from sweeps.slots.pool import SlotPool
from sweeps.storage.disk_space import growth_bytes
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import Proposal
from sweeps.study.proposal import COLLAPSED_TASKS

END_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    FAILED: TrialState.FAIL,
}
"""State in the last report of a trial -> state of the trial in Optuna."""


class NotSaved:
    """Base class of objects that Ray Tune pickles; the pickles are empty and never read.

    A sweep continues from the study's journal file instead.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class _Running:
    proposal: Proposal
    job: Job
    slot: int


class StudySearcher(NotSaved, Searcher):
    """Ray Tune searcher that sends the study's trials to slots and records their epochs and ends.

    Args:
        plan: The search file, checked against the dataset.
        limits: The sweep's limits, with its study, kept weights and training clock.
        slots: The slots (processes or groups of DDP workers) that train trials.
        watcher: Observer of the search, such as the live table.
        results_changed: Function that is called after each end of a trial and each removal of
            weights, such as one that starts a fusion.

    Attributes:
        halted: The reason why no more trials start; None while the search continues.
        interrupted: True once Ctrl-C was pressed.
    """

    def __init__(
        self,
        plan: Plan,
        limits: Limits,
        slots: SlotPool,
        watcher: Watcher,
        results_changed: Callable[[], None],
    ) -> None:
        super().__init__()
        self.plan, self.limits, self.slots = plan, limits, slots
        self.watcher, self.results_changed = watcher, results_changed
        self.halted: str | None = None
        self.interrupted = False
        self._study, self._record = limits.study, limits.study.record
        self._restarts = plan.file.budget.restarts
        self._running: dict[str, _Running] = {}
        self._bytes_of = functools.cache(
            lambda overrides, fold: trial_bytes(plan, compose(overrides), fold)
        )
        self._said_wait = False
        self._deaths: Counter[tuple[str, int]] = Counter()
        self._stopping = Stop.NOT

    def suggest(self, trial_id: str) -> Any:
        """Start the study's next trial in a free slot, and return its config for Tune.

        A slot is a process, or a group of DDP workers, that trains one trial after another.

        Args:
            trial_id: Tune's id of the trial.

        Returns:
            A dict with ``slot`` (actor that trains), ``folder`` (the trial's folder) and ``job``
            (fields of the ``Job``); None if no trial can start now; ``Searcher.FINISHED`` if no
            more will.
        """
        self._tick()
        self.stop_if_requested()
        slot = None if self.halted else self.slots.take()
        if slot is None and self.slots.gone:
            self.halted = self.halted or f"{self.slots.gone_reason}: no slot is left"
        if slot is not None:
            self._make_room(0)
            self.halted = self.limits.halt()
        if self.halted:
            return str(Searcher.FINISHED)
        if slot is None:
            return None
        proposal = self._next_with_room()
        if proposal is None:
            self.slots.release(slot)
            # A running trial may lose its slot and is then proposed again, or end and free space.
            return None if self._running else str(Searcher.FINISHED)
        return self._start(trial_id, proposal, slot)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the epoch in a trial's report, and send the pruning decision to the trial's slot.

        The slot is the process, or group of DDP workers, that trains the trial and waits for the
        decision.

        Args:
            trial_id: Tune's id of the trial.
            result: Report as made by ``sweeps.search.tune_trial.reports``.
        """
        self._tick()
        running = self._running[trial_id]
        proposal, slot = running.proposal, running.slot
        if result["state"] == BEGUN:
            self._note_workers(running, result)
        if result["state"] != RUNNING:
            return
        epoch: dict[str, Any] = json.loads(result["result"])
        metric = self.plan.file.search.metric
        value = epoch["objective"] if metric == "score" else epoch["best_scores"][metric]
        prune = self._record.report(
            proposal.study, proposal.number, epoch["epoch"], value, all_collapsed(epoch)
        )
        if running.job.waits_after(epoch):
            self.slots.actor(slot).decide.remote(running.job.name, epoch["epoch"], prune)
        self.watcher.epoch(proposal, epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record the end of a trial, and free its slot, or replace the slot if it died.

        The slot is the process, or group of DDP workers, that trained the trial. An interrupted
        trial stays RUNNING in the journal, so that it can be continued later.

        Args:
            trial_id: Tune's id of the trial.
            result: Last report as made by ``sweeps.search.tune_trial.reports``; None if there is
                none.
            error: True if the trial's Tune actor died.
        """
        self._tick()
        running = self._running.pop(trial_id)
        proposal, slot = running.proposal, running.slot
        if result is None or error:
            result = {"state": LOST, "reason": "Tune's side of the trial died"}
        state: str = result["state"]
        reason: Any = result.get("reason")
        slot_is_lost = state == LOST
        if slot_is_lost:
            state = self._requeue_or_fail(proposal)
        if state in END_STATES:
            if state == FAILED:
                self._folder(proposal).mark_failed(str(reason))
            key, collapsed = (proposal.study, proposal.number), result.get("collapsed")
            attributes = {COLLAPSED_TASKS: collapsed} if collapsed else {}
            self._record.tell(*key, END_STATES[state], reason, attributes)
            reason = self._record.trial(key).user_attrs.get("reason")
            self.limits.kept_weights.add(proposal.signature, state == FAILED)
            self.results_changed()
        if state == LOST:
            self.watcher.again(proposal, reason)
        else:
            self.watcher.ended(proposal, state, reason)
        if slot_is_lost:
            self.slots.lose(slot, replace=not self.halted)
        else:
            self.slots.release(slot)

    def stop(self, reason: str, when: Stop) -> None:
        """Start no more trials, and stop the running ones so that they can be continued later.

        Args:
            reason: Reason of the sweep's end, as a sentence for the user.
            when: Urgency: after the current epoch, or at once.
        """
        self.halted, self._stopping = reason, when
        self.slots.stop(when)

    def interrupt(self) -> None:
        """Request an end like that by Ctrl-C; may be called from any thread."""
        self.interrupted = True

    def stop_if_requested(self) -> None:
        """Stop all trials at once if Ctrl-C was pressed or ``budget.until`` is reached."""
        if self.interrupted and self.halted != INTERRUPTED:
            self.stop(INTERRUPTED, Stop.NOW)
        late = self.limits.late()
        if late and self._stopping != Stop.NOW:
            self.stop(self.halted or late, Stop.NOW)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing, since the study's journal file has all results."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing, since the study's journal file has all results."""

    def _tick(self) -> None:
        """Update the training time; if the budget is spent, stop the trials after their epochs."""
        self.limits.clock.tick(bool(self._running))
        spent = self.limits.spent()
        if spent and self._stopping == Stop.NOT:
            self.stop(self.halted or spent, Stop.AFTER_EPOCH)

    def _next_with_room(self) -> Proposal | None:
        """Return the next trial; None if there is none, or if the disk may lack space for it.

        A trial without space is queued again. It starts when others have ended and left enough; if
        none is running, the search ends.
        """
        proposal = self._study.ask()
        if proposal is None:
            return None
        if self.limits.ample_disk(len(self._running) + 1):
            return proposal
        due = (*(running.proposal for running in self._running.values()), proposal)
        largest = {of.signature: self._bytes_of(of.overrides, of.fold) for of in due}
        growth = growth_bytes(self.limits.folder, largest)
        self._make_room(growth)
        full = self.limits.disk_full(growth)
        if full is None:
            return proposal
        self._record.put_back(proposal.study, proposal.number)
        if not self._running:
            self.halted = full
        elif not self._said_wait:
            self._said_wait = True
            self.watcher.say(f"{full}; until then it waits for others to end, as later ones may")
        return None

    def _make_room(self, growth: int) -> None:
        """Remove weights of beaten trials if disk space is short, and tell the user."""
        removed = self.limits.make_room(growth)
        if removed:
            self.watcher.say(removed)
            self.results_changed()

    def _note_workers(self, running: _Running, result: Mapping[str, Any]) -> None:
        """Record that a trial's DDP workers are up, for the first time or after others died."""
        self.slots.placed(running.slot, result["placement_group"])
        if result["restarts"]:
            key = (running.proposal.study, running.proposal.number)
            self._deaths[key] = self._restarts - running.job.restarts + result["restarts"]
            self.watcher.again(running.proposal, "its workers died")

    def _requeue_or_fail(self, proposal: Proposal) -> str:
        """Queue a trial again after its process died, and return the trial's state, `LOST`.

        If processes of this trial died more often than ``budget.restarts`` allows, the trial is not
        queued, and the state is `FAILED`.
        """
        key = (proposal.study, proposal.number)
        self._deaths[key] += 1
        if self._deaths[key] > self._restarts:
            return FAILED
        self._record.put_back(*key)
        return LOST

    def _folder(self, proposal: Proposal) -> TrialFolder:
        return TrialFolder.in_run(self.limits.folder.resolve(), proposal.signature)

    def _start(self, trial_id: str, proposal: Proposal, slot: int) -> dict[str, Any]:
        config = compose(proposal.overrides)
        folder = self._folder(proposal)
        folder.begin(trial_yaml(self.plan, proposal, config))
        rungs = self.plan.rungs(config.training.epochs)
        job = Job(
            name=trial_name(proposal, config),
            config=config.plain(),
            rungs=frozenset() if proposal.unpruned else rungs,
            prunes_collapse=not proposal.unpruned,
            reported=max(proposal.reported, default=0),
            stopped=proposal.stopped,
            fold=proposal.fold,
            restarts=self._restarts - self._deaths[proposal.study, proposal.number],
        )
        self._running[trial_id] = _Running(proposal, job, slot)
        self.watcher.started(proposal, job)
        fields = {k: v for k, v in asdict(job).items() if k not in ("checkpoint", "weights")}
        return {"slot": self.slots.actor(slot), "folder": str(folder.path), "job": fields}


def trial_name(proposal: Proposal, config: TrialConfig) -> str:
    """Return a trial's name for Ray's dashboard, such as ``demo/0003 gru mlp share_encoder``.

    The parts are the sweep's name, the trial's number, the encoder, the head and the framework.
    """
    parts = (config.encoder.name, config.head.name, config.framework.name)
    return f"{proposal.study}/{proposal.number:04d} {' '.join(parts)}"
