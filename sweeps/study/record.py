"""Record of a sweep's trials: the Optuna studies of one journal file."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.storage.driver_lock import DriverLock
from sweeps.study.index import ORIGIN, Index, Key
from sweeps.study.journal import JOURNAL, Journal
from sweeps.study.proposal import KEEP, PRUNE, is_stopped
from sweeps.study.pruner import PrunerSettings, make_pruner
from sweeps.study.sampler import RecentStudy

COPIED_TO_RETRY = ("overrides", "signature", "repeat_of", "fold", "fold_of")
"""Attributes that a retry copies from the failed trial."""


class StudyRecord:
    """Record of a sweep's trials, which reads them from the journal and makes all changes of it.

    Args:
        folder: The sweep's folder; it is made if needed.
        studies: Names of the sweep's studies.
        pruned: Names of the studies in which trials may be pruned at rungs.
        pruner: Settings of the pruner; its kind is `asha` or `none`.
        sign: Function that returns the signature of the config that overrides compose to.
        lock: The folder's lock if the caller holds it already. It is released by `close`.

    Attributes:
        index: The trials of all studies by signature and state.

    Raises:
        InputError: If another driver holds the folder, or a line before the journal's last one is
            damaged.
    """

    index: Index

    def __init__(
        self,
        folder: Path,
        studies: Sequence[str],
        pruned: Collection[str],
        pruner: PrunerSettings,
        sign: Callable[[Sequence[str]], str],
        lock: DriverLock | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._pruned, self._sign = pruned, sign
        self._pruner = make_pruner(pruner)
        self._lock = lock or DriverLock(folder)
        try:
            self._open(folder / JOURNAL, studies)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock of the folder; trials that are RUNNING stay RUNNING."""
        self._lock.close()

    def put_back(self, study: str, number: int) -> None:
        """Queue a trial that lost its slot; it continues from its last recorded epoch.

        A trial that has ended is not queued.
        """
        if (study, number) in self.index.running:
            self.index.unfinished.appendleft((study, number))

    def retry_failed(self) -> int:
        """Queue a retry of each trial that was trained and failed; return the number of retries.

        A retry is a trial of its own, written as one record, with the parameters of the failed
        trial and the attribute `retry_of`. It is trained before new trials. It counts neither
        towards its study's share nor towards the number that the next sampler is made from, so new
        trials are drawn as if the retry had run in the place of the failed trial. A retry that
        fails is retried only by another call. Twins of the failed trial keep their FAIL in the
        journal, since an ended trial is never changed there, but `counts` counts them with the
        state of the retry, and a later proposal of the same config becomes a twin of the retry.
        """
        failed = list(self.index.failed.values())
        for study, number in failed:
            trial = self.trial((study, number))
            kept = {
                name: trial.user_attrs[name] for name in COPIED_TO_RETRY if name in trial.user_attrs
            }
            attributes = {**kept, "retry_of": f"{study} {number}"}
            self._index_trial(study, self._journal.add(self._id(study), trial, attributes))
        return len(failed)

    def knows(self, signature: str) -> bool:
        """Return True if a trial has this signature."""
        return signature in self.index.latest

    def adopt(
        self,
        study: str,
        trial: FrozenTrial,
        point: optuna.trial.BaseTrial,
        overrides: Sequence[str],
        origin: str,
    ) -> None:
        """Write a finished trial of another sweep to the journal, as one record.

        The trial does not count towards the study's share, but the sampler learns from it. Samplers
        of new trials are made from the numbers after it, so that no point is drawn twice.

        Args:
            study: Name of the study that takes the trial over.
            trial: The other sweep's trial, whose values and decisions are copied.
            point: Trial that holds the same point as parameters of this sweep's space.
            overrides: The point as overrides.
            origin: Value of the attribute `from`: "<other sweep>: <study> <number>".
        """
        kept = {k: v for k, v in trial.user_attrs.items() if k.startswith("decision:")}
        signature = trial.user_attrs["signature"]
        attributes = {"overrides": list(overrides), "signature": signature, ORIGIN: origin}
        record = create_trial(
            state=TrialState.RUNNING, params=point.params, distributions=point.distributions
        )
        added = self._journal.add(self._id(study), record, {**kept, **attributes}, result_of=trial)
        self._index_trial(study, added)

    def report(self, study: str, number: int, epoch: int, value: float) -> bool:
        """Record the value of an epoch; return True if the trial is pruned after it.

        The decision is written to the journal before it is returned. An epoch that is already
        recorded keeps its value and its decision. Nothing is recorded for a trial that was pruned
        at an earlier epoch or has ended; the result is then True.

        Args:
            study: Name of the trial's study.
            number: The trial's number in the study.
            epoch: Epoch, counted from 1.
            value: Objective after this epoch; higher is better.
        """
        trial = self.trial((study, number))
        if trial.state.is_finished():
            return True
        if is_stopped(trial):
            return trial.last_step is not None and epoch >= trial.last_step
        if epoch not in trial.intermediate_values:
            self._record((study, number), epoch, float(value))
        return self._decide((study, number), epoch)

    def tell(
        self,
        study: str,
        number: int,
        state: TrialState,
        reason: str | None = None,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the end of a trial and of its twins to the journal.

        The state is written last. If the driver is killed before that, the trial is proposed
        again. A trial that has ended is not changed.

        Args:
            study: Name of the trial's study.
            number: The trial's number in the study.
            state: COMPLETE, PRUNED or FAIL. A COMPLETE trial has the last reported value; without
                a value, or with NaN, it becomes FAIL. A trial whose last decision was to prune is
                PRUNED even if its slot trained it to the end.
            reason: Cause of a failure, in one line.
            attributes: JSON values to add to the trial's attributes.
        """
        trial = self.trial((study, number))
        if trial.state.is_finished():
            return
        if state == TrialState.COMPLETE and is_stopped(trial):
            state = TrialState.PRUNED
        value = last_value(trial) if state == TrialState.COMPLETE else None
        if state == TrialState.COMPLETE and (value is None or math.isnan(value)):
            state, reason, value = TrialState.FAIL, f"it ended with the value {value}", None
        reasons = {"reason": reason} if reason is not None else {}
        for key, attribute in {**(attributes or {}), **reasons}.items():
            if trial.user_attrs.get(key) != attribute:
                self._journal.set_trial_user_attr(trial._trial_id, key, attribute)
        self._studies[study].tell(number, value, state=state)
        self.index.end((study, number), self.trial((study, number)))
        self._tell_twins((study, number))

    def trials(self) -> dict[str, list[FrozenTrial]]:
        """Return the trials of each study in the order of their numbers. Do not change them."""
        return {study: found.get_trials(deepcopy=False) for study, found in self._studies.items()}

    def counts(self) -> Counter[str]:
        """Return the number of COMPLETE, PRUNED, FAIL and RUNNING trials of all studies.

        A trial that was retried counts with the state of its retry, and so do its twins.
        """
        states: Counter[str] = Counter()
        for signature, key in self.index.latest.items():
            states[self.trial(key).state.name] += self.index.asked[signature]
        return states

    def failures(self) -> list[FrozenTrial]:
        """Return the trials that were trained and failed; their attribute `reason` has the cause.

        Twins are left out, and so are trials that were retried: only the retry counts.
        """
        return [self.trial(key) for key in self.index.failed.values()]

    def outcomes(self) -> dict[str, bool]:
        """Return, for the signature of each ended trial, True if the trial failed.

        A failed trial that is being retried has not ended.
        """
        return {
            signature: signature in self.index.failed
            for signature, key in self.index.latest.items()
            if key not in self.index.running
        }

    def ended(self) -> int:
        """Return the number of ended trials; a failed trial that is being retried has not ended."""
        return self.index.ended()

    def trial(self, key: Key) -> FrozenTrial:
        """Return the trial with this study and number."""
        study, number = key
        find = self._journal.get_trial_id_from_study_id_trial_number
        return self._journal.get_trial(find(self._id(study), number))

    def trials_of(
        self, study: str, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of one study, only those in `states` if given. Do not change them."""
        return self._studies[study].get_trials(deepcopy=False, states=states)

    def draft(
        self,
        study: str,
        sampler: optuna.samplers.BaseSampler,
        shown: Callable[[], Sequence[FrozenTrial]],
    ) -> optuna.Trial:
        """Return a trial in memory on which a point can be sampled; `write` adds it to the journal.

        Args:
            study: Name of the study that the sampler draws for.
            sampler: Optuna sampler that draws the point.
            shown: Function that returns the trials that the sampler learns from.
        """
        return self._journal.draft(RecentStudy(study, self._journal, sampler, shown))

    def write(
        self,
        study: str,
        trial: optuna.Trial | FrozenTrial,
        overrides: Sequence[str],
        **attributes: Any,
    ) -> None:
        """Write a new trial to the journal, as one record, and queue it unless it is a twin.

        Args:
            study: Name of the trial's study.
            trial: Draft or trial whose parameters the new trial has.
            overrides: Overrides that compose to its config.
            **attributes: More attributes; `signature` replaces the one of the overrides.
        """
        attributes = {
            "overrides": list(overrides),
            "signature": self._sign(overrides),
            **attributes,
        }
        first = self.index.latest.get(attributes["signature"])
        result = None
        if first is not None:
            attributes["twin_of"] = f"{first[0]} {first[1]}"
            trained = self.trial(first)
            result = trained if trained.state.is_finished() else None
            if result and "reason" in result.user_attrs:
                attributes["reason"] = result.user_attrs["reason"]
        added = self._journal.add(self._id(study), trial, attributes, result)
        self._index_trial(study, added)

    def _open(self, path: Path, names: Sequence[str]) -> None:
        self._journal = Journal(path)
        known = {study.study_name for study in self._journal.get_all_studies()}
        for study in names:
            # Not load_if_exists: it adds a record to the journal at every start.
            if study not in known:
                optuna.create_study(study_name=study, storage=self._journal, direction="maximize")
        self._studies = {
            study: optuna.load_study(study_name=study, storage=self._journal) for study in names
        }
        self.index = Index()
        self._take_up()

    def _take_up(self) -> None:
        """Continue where the last driver ended: index all trials, make decisions that are due."""
        found = [((study, t.number), t) for study, ts in self.trials().items() for t in ts]
        for key, trial in sorted(found, key=lambda entry: entry[1]._trial_id):
            self._index_trial(key[0], trial)
        for key in self.index.unfinished:
            epoch = self.trial(key).last_step
            if epoch is not None:
                self._decide(key, epoch)
        for first in sorted(self.index.twins.keys() - self.index.running.keys()):
            self._tell_twins(first)

    def _id(self, study: str) -> int:
        return self._studies[study]._study_id

    def _index_trial(self, study: str, trial: FrozenTrial) -> None:
        """Add a trial of the journal to the index and its values to the pruner."""
        self.index.add((study, trial.number), trial)
        if self._pruner:
            for epoch, value in trial.intermediate_values.items():
                self._pruner.add(study, epoch, value)

    def _record(self, key: Key, epoch: int, value: float) -> None:
        self._journal.set_trial_intermediate_value(self.trial(key)._trial_id, epoch, value)
        if self._pruner:
            self._pruner.add(key[0], epoch, value)

    def _decide(self, key: Key, epoch: int) -> bool:
        """Return True if the trial is pruned at this epoch; a recorded decision is kept."""
        if self._pruner is None or key[0] not in self._pruned or not self._pruner.is_rung(epoch):
            return False
        trial = self.trial(key)
        decision = trial.user_attrs.get(f"decision:{epoch}")
        if decision is None:
            stops = self._pruner.stops(key[0], epoch, trial.intermediate_values[epoch])
            decision = PRUNE if stops else KEEP
            self._journal.set_trial_user_attr(trial._trial_id, f"decision:{epoch}", decision)
        return bool(decision == PRUNE)

    def _tell_twins(self, first: Key) -> None:
        """Give the twins of an ended trial its values and its end."""
        ended = self.trial(first)
        for twin in self.index.twins.pop(first, []):
            waiting = self.trial(twin)
            for epoch, value in ended.intermediate_values.items():
                if epoch not in waiting.intermediate_values:
                    self._record(twin, epoch, value)
            self.tell(*twin, ended.state, ended.user_attrs.get("reason"))


def last_value(trial: FrozenTrial) -> float | None:
    """Return the value of a trial's last reported epoch; None if no epoch was reported."""
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]
