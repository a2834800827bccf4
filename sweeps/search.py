"""Ray Tune over the study: who trains next, in which slot, and who is stopped.

The study (``sweeps.study``) decides everything and remembers everything. Tune runs the trials: this
Searcher hands it what the study proposes, as many at a time as there are slots. A trial that the
study prunes is told so in its slot and ends by itself with its predictions, so no TrialScheduler
that kills from outside is needed, and Tune's own files are temporary and never read back.
"""

import json
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import ray
from optuna.trial import TrialState
from ray import tune
from ray.actor import ActorHandle
from ray.tune.search import Searcher

from mtl.config import TrialConfig
from mtl.dataset import Listing
from sweeps.job import INTERRUPTED, Job
from sweeps.study import Proposal, SweepStudy
from sweeps.trial import RUNNING, run_trial
from sweeps.trial_folder import TrialFolder

ENDS = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


class Watcher(Protocol):
    """What wants to know how the sweep goes."""

    def started(self, proposal: Proposal, job: Job) -> None:
        """A trial was handed to a slot."""

    def epoch(self, proposal: Proposal, result: Mapping[str, Any]) -> None:
        """An epoch of it has ended."""

    def ended(self, proposal: Proposal, state: str, reason: str | None) -> None:
        """It has ended: complete, pruned, failed or interrupted."""


@dataclass(frozen=True)
class Rules:
    """What the search needs to know of the sweep's settings.

    Attributes:
        sweep: Its name.
        folder: ``runs/<name>``.
        metric: ``score``, or the task whose score counts.
        rungs: Epochs at which a trial may be pruned.
        compose: Overrides -> config.
        describe: The YAML that goes into a trial's folder.
        halt: Why the sweep should take up no more trials, or None; asked before each.
        ended: Told the signature of each trial that has ended, and whether it failed.
        new_slot: Starts one in the place of a slot that is lost; None if none can be placed.
    """

    sweep: str
    folder: Path
    metric: str
    rungs: Callable[[int], frozenset[int]]
    compose: Callable[[Sequence[str]], TrialConfig]
    describe: Callable[[Proposal, TrialConfig], str]
    halt: Callable[[], str | None]
    ended: Callable[[str, bool], None]
    new_slot: Callable[[], ActorHandle[Any] | None]


class _NotSaved:
    """Tune pickles what it is given, to restore it one day: the journal does that here."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class StudySearcher(_NotSaved, Searcher):
    """Tune's view of the study."""

    def __init__(
        self,
        study: SweepStudy,
        slots: Sequence[ActorHandle[Any]],
        rules: Rules,
        watcher: Watcher,
    ) -> None:
        super().__init__()
        self.study, self.slots, self.rules, self.watcher = study, list(slots), rules, watcher
        self.halted: str | None = None
        self._free = list(range(len(self.slots)))
        self._running: dict[str, tuple[Proposal, int]] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next trial for a free slot; None while there is none, FINISHED when all are out."""
        if self.halted:
            return str(Searcher.FINISHED)
        if not self._free:
            return None
        self.halted = self.rules.halt()
        if self.halted:
            return str(Searcher.FINISHED)
        proposal = self.study.ask()
        if proposal is None:
            return str(Searcher.FINISHED)
        slot = self._free.pop(0)
        self._running[trial_id] = (proposal, slot)
        return self._start(proposal, slot)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an epoch, and answer a slot that waits for a decision."""
        if result["state"] != RUNNING:
            return
        proposal, slot = self._running[trial_id]
        epoch: dict[str, Any] = json.loads(result["result"])
        metric = self.rules.metric
        value = epoch["objective"] if metric == "score" else epoch["best_scores"][metric]
        prune = self.study.report(proposal.study, proposal.number, epoch["epoch"], value)
        self.slots[slot].decide.remote(epoch["epoch"], prune)
        self.watcher.epoch(proposal, epoch)

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Record a trial's end; an interrupted one stays as it is, to be taken up again."""
        proposal, slot = self._running.pop(trial_id)
        state = "failed" if error or result is None else result["state"]
        reason = (result or {}).get("reason", "Tune's side of the trial died" if error else None)
        if state in ENDS:
            self.study.tell(proposal.study, proposal.number, ENDS[state], reason)
            self._folder(proposal).settle()
            self.rules.ended(proposal.signature, state == "failed")
        self.watcher.ended(proposal, state, reason)
        # Last: a new slot takes its time, and by now nothing is lost if that is cut short.
        if not error and (result or {}).get("slot_free", True):
            self._free.append(slot)
        elif not self.halted:
            self._replace(slot)

    def stop(self, why: str) -> None:
        """Take up nothing more and end what runs, resumably."""
        self.halted = why
        for slot in self.slots:
            slot.stop.remote()

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal is the record."""

    def _replace(self, slot: int) -> None:
        """A new process for a slot; the other trials go on training meanwhile."""
        ray.kill(self.slots[slot])
        new = self.rules.new_slot()
        if new is not None:
            self.slots[slot] = new
            self._free.append(slot)
        elif not self._running and not self._free:
            self.halted = "no slot is left and none can be placed: the same command goes on"

    def _folder(self, proposal: Proposal) -> TrialFolder:
        return TrialFolder(self.rules.folder / "trials" / proposal.signature)

    def _start(self, proposal: Proposal, slot: int) -> dict[str, Any]:
        config = self.rules.compose(proposal.overrides)
        folder = self._folder(proposal)
        folder.begin(self.rules.describe(proposal, config))
        job = Job(
            name=trial_name(proposal, config),
            config=config.plain(),
            rungs=self.rules.rungs(config.training.epochs),
            reported=max(proposal.reported, default=0),
            stopped=proposal.stopped,
        )
        self.watcher.started(proposal, job)
        fields = {k: v for k, v in asdict(job).items() if k not in ("checkpoint", "weights")}
        return {"slot": self.slots[slot], "folder": str(folder.path), "job": fields}


def trial_name(proposal: Proposal, config: TrialConfig) -> str:
    """``demo/0003 gru mlp share_encoder``, as Ray's dashboard lists it."""
    parts = (config.encoder.name, config.head.name, config.framework.name)
    return f"{proposal.study}/{proposal.number:04d} {' '.join(parts)}"


class _Interrupts(_NotSaved, tune.Callback):
    """Ctrl-C ends the sweep between two steps of Tune; a second one at once."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher
        self.pressed = False

    def press(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self.pressed and self.searcher.halted != INTERRUPTED:
            self.searcher.stop(INTERRUPTED)


def search(searcher: StudySearcher, listing: Listing) -> str | None:
    """Run the search to its end.

    Returns:
        Why it ended early, or None.
    """
    interrupts = _Interrupts(searcher)
    trainable = tune.with_parameters(run_trial, listing=listing)
    # Tune's side of a trial holds nothing, and writes where this driver reads.
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    here = {"CPU": 0, f"node:{address}": 0.001}
    previous = signal.signal(signal.SIGINT, interrupts.press)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            tuner = tune.Tuner(
                tune.with_resources(trainable, here),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=searcher.rules.sweep,
                    storage_path=temporary,
                    callbacks=[interrupts],
                    verbose=0,
                ),
            )
            tuner.fit()
        finally:
            signal.signal(signal.SIGINT, previous)
    return searcher.halted
