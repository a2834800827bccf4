"""Record of a sweep's trials, kept in the Optuna studies of one journal file."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from mtl.errors import InputError
from sweeps.storage.driver_lock import DriverLock
from sweeps.study.index import ORIGIN, Index, Key
from sweeps.study.journal import JOURNAL, REMEDY, Journal
from sweeps.study.proposal import (
    COLLAPSED,
    COLLAPSED_TASKS,
    KEEP,
    PRUNE,
    is_stopped,
    last_decision,
)
from sweeps.study.pruner import PrunerSettings, make_pruner
from sweeps.study.sampler import RecentStudy

REQUIRED = ("overrides", "signature")
"""User attributes that every trial of a sweep has."""
COPIED_TO_RETRY = ("overrides", "signature", "repeat_of", "fold", "fold_of")
"""User attributes that a retry (failed trial that is trained again) copies from that trial."""
COPIED_WITH_RESULT = ("reason", COLLAPSED_TASKS)
"""User attributes that a trial copies from an ended trial together with its state and values."""


class StudyRecord:
    """Record of a sweep's trials in a journal file, with all methods that change the file.

    A trial's signature is the hash of its config and dataset. A trial with the signature of an
    earlier trial is a twin: it is not trained, but gets the earlier one's result.

    Args:
        folder: The run folder; it is made if needed.
        studies: Names of the sweep's Optuna studies.
        pruned: Names of the studies in which trials may be pruned.
        pruner: Settings of the pruner; its kind is `asha` or `none`.
        sign: Function that returns the signature of the config that overrides compose to.
        lock: The folder's lock if the caller holds it already. `close` releases the lock.

    Attributes:
        index: Lookup of the trials of all studies by signature and state.

    Raises:
        InputError: If another process holds the folder's lock, or a line of the journal is damaged,
            except a half-written last one.
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
        """Release the lock of the run folder; RUNNING trials stay RUNNING in the journal."""
        self._lock.close()

    def put_back(self, study: str, number: int) -> None:
        """Queue a running trial whose process has died; it will continue after its last epoch.

        The last epoch is the last one in the journal. A trial that has ended is not queued.

        Args:
            study: Name of the trial's study.
            number: The trial's number in the study.
        """
        if (study, number) in self.index.running:
            self.index.unfinished.appendleft((study, number))

    def retry_failed(self) -> int:
        """Queue a retry of each trial that was trained and failed; return the number of retries.

        A retry is a new trial in the journal, with the parameters of the failed trial and the
        attribute `retry_of`. It is trained before other new trials. Retries count neither as trials
        of their study nor in the seeds of samplers, so later trials are drawn as if the retry had
        run in the place of the failed trial. If a retry fails, only another call queues the trial
        again. Twins of the failed trial (later trials with the same config) keep their state FAIL
        in the journal, since an ended trial is never changed there, but `counts` counts them with
        the state of the retry. A later trial with the same config becomes a twin of the retry.
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
        """Return True if a trial has this signature (hash of config and dataset)."""
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

        The adopted trial does not count in the study's planned number of trials, but the study's
        sampler learns from the adopted trial, which also uses up one trial number. Samplers are
        seeded with trial numbers, so later trials draw other points than they would without the
        adopted trial.

        Args:
            study: Name of the study that takes the trial over.
            trial: The other sweep's trial; its state, values and pruning decisions are copied.
            point: Trial that has the same hyperparameters, as parameters of this sweep's search
                space.
            overrides: The hyperparameters as Hydra overrides.
            origin: Value of the attribute `from`: "<other sweep>: <study> <number>".
        """
        decisions = {k: v for k, v in trial.user_attrs.items() if k.startswith("decision:")}
        kept = decisions | _result_attributes(trial)
        signature = trial.user_attrs["signature"]
        attributes = {"overrides": list(overrides), "signature": signature, ORIGIN: origin}
        record = create_trial(
            state=TrialState.RUNNING, params=point.params, distributions=point.distributions
        )
        added = self._journal.add(self._id(study), record, {**kept, **attributes}, result_of=trial)
        self._index_trial(study, added)

    def report(
        self, study: str, number: int, epoch: int, value: float, collapsed: bool = False
    ) -> bool:
        """Record a trial's objective after an epoch; return True if the trial is pruned then.

        The decision is written to the journal before it is returned. An epoch that is already
        recorded keeps its objective and its decision. Nothing is recorded for a trial that was
        pruned at an earlier epoch or has ended; the result is then True.

        The decision to prune a collapsed trial is written before the objective: it cannot be made
        from the journal, so after a kill between both records the epoch must be reported again.

        Args:
            study: Name of the trial's study.
            number: The trial's number in the study.
            epoch: Epoch, counted from 1.
            value: Objective after this epoch; higher is better.
            collapsed: True if all tasks have collapsed (their outputs are nearly constant). The
                trial is then pruned, with any pruner or none, if its study may prune trials.
        """
        trial = self.trial((study, number))
        if trial.state.is_finished():
            return True
        if is_stopped(trial):
            return trial.last_step is not None and epoch >= trial.last_step
        if epoch not in trial.intermediate_values:
            if collapsed and study in self._pruned:
                self._set_attribute(trial, f"decision:{epoch}", COLLAPSED)
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
        """Write the end of a trial, and of later trials with the same config, to the journal.

        The state is written last. If the program is killed before that, the trial is proposed
        again. A trial that has ended is not changed. The value of a COMPLETE trial is its last
        recorded objective.

        Args:
            study: Name of the trial's study.
            number: The trial's number in the study.
            state: COMPLETE, PRUNED or FAIL. COMPLETE becomes PRUNED if the trial's last decision
                was to prune it, and FAIL if its last recorded objective is missing or NaN.
            reason: Cause of a failure, in one line. A trial that was pruned because all its tasks
                had collapsed gets the reason "collapsed".
            attributes: JSON values to add to the trial's attributes.
        """
        trial = self.trial((study, number))
        if trial.state.is_finished():
            return
        if state == TrialState.COMPLETE and is_stopped(trial):
            state = TrialState.PRUNED
        if state == TrialState.PRUNED and last_decision(trial) == COLLAPSED:
            reason = COLLAPSED
        value = last_value(trial) if state == TrialState.COMPLETE else None
        if state == TrialState.COMPLETE and (value is None or math.isnan(value)):
            state, reason, value = TrialState.FAIL, f"it ended with the value {value}", None
        reasons = {"reason": reason} if reason is not None else {}
        for key, attribute in {**(attributes or {}), **reasons}.items():
            self._set_attribute(trial, key, attribute)
        self._studies[study].tell(number, value, state=state)
        self.index.end((study, number), self.trial((study, number)))
        self._tell_twins((study, number))

    def trials(self) -> dict[str, list[FrozenTrial]]:
        """Return a dict: study's name -> its trials in a list, by number. Do not change them."""
        return {study: found.get_trials(deepcopy=False) for study, found in self._studies.items()}

    def counts(self) -> Counter[str]:
        """Return a counter: COMPLETE, PRUNED, FAIL or RUNNING -> number of trials in all studies.

        A failed trial that was retried counts once, with the state of its retry, and so do later
        trials with the same config.
        """
        states: Counter[str] = Counter()
        for signature, key in self.index.latest.items():
            states[self.trial(key).state.name] += self.index.asked[signature]
        return states

    def failures(self) -> list[FrozenTrial]:
        """Return the trials that were trained and failed; their attribute `reason` has the cause.

        Trials that were retried are left out, and so are later trials with the same config as a
        failed one, which were not trained.
        """
        return [self.trial(key) for key in self.index.failed.values()]

    def outcomes(self) -> dict[str, bool]:
        """Return a dict: signature of each ended trial -> True if the trial failed.

        A signature is the hash of a trial's config and dataset. A failed trial that is being
        trained again is left out.
        """
        return {
            signature: signature in self.index.failed
            for signature, key in self.index.latest.items()
            if key not in self.index.running
        }

    def ended(self) -> int:
        """Return the number of ended trials, without failed ones that are being trained again."""
        return self.index.ended()

    def trial(self, key: Key) -> FrozenTrial:
        """Return the trial with this key: name of its study, and its number in the study."""
        study, number = key
        find = self._journal.get_trial_id_from_study_id_trial_number
        return self._journal.get_trial(find(self._id(study), number))

    def trials_of(
        self, study: str, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return the trials of one study, only those in `states` if given. Do not change them.

        Args:
            study: The study's name.
            states: Optuna states, such as COMPLETE; None for trials in any state.
        """
        return self._studies[study].get_trials(deepcopy=False, states=states)

    def draft(
        self,
        study: str,
        sampler: optuna.samplers.BaseSampler,
        shown: Callable[[], Sequence[FrozenTrial]],
        given: Mapping[str, Any],
    ) -> optuna.Trial:
        """Return a trial in memory, which draws its parameters from a sampler; `write` stores it.

        Args:
            study: Name of the study that the trial will belong to.
            sampler: Optuna sampler that draws the parameters.
            shown: Function that returns the earlier trials that the sampler sees.
            given: Optuna's parameters that are not drawn, by name.
        """
        return self._journal.draft(RecentStudy(study, self._journal, sampler, shown), given)

    def write(
        self,
        study: str,
        trial: optuna.Trial | FrozenTrial,
        overrides: Sequence[str],
        **attributes: Any,
    ) -> None:
        """Write a new trial to the journal, as one record, and queue it to be trained.

        If an earlier trial has the same signature (hash of config and dataset), the new one is not
        queued but gets the earlier one's result.

        Args:
            study: Name of the new trial's study.
            trial: Draft (trial in memory) or earlier trial, whose parameters the new trial gets.
            overrides: Hydra overrides that compose to the new trial's config.
            **attributes: More user attributes of the new trial; a `signature` given here replaces
                the signature computed from the overrides.
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
            attributes |= _result_attributes(result) if result else {}
        added = self._journal.add(self._id(study), trial, attributes, result)
        self._index_trial(study, added)

    def _open(self, path: Path, names: Sequence[str]) -> None:
        self._journal = Journal(path, REQUIRED)
        known = {study.study_name for study in self._journal.get_all_studies()}
        for study in names:
            # Not load_if_exists: it adds a record to the journal at every start.
            if study not in known:
                optuna.create_study(study_name=study, storage=self._journal, direction="maximize")
        self._studies = {
            study: optuna.load_study(study_name=study, storage=self._journal) for study in names
        }
        self.index = Index()
        try:
            self._resume()
        except InputError as error:
            raise InputError(f"{path}: {error}; {REMEDY}") from None

    def _resume(self) -> None:
        """Index the journal's trials, and finish what the last driver left undone.

        Pruning decisions that are due are made, and twins of ended trials (later trials with the
        same config) get their results.
        """
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
        """Add a trial of the journal to the lookup of trials, and its objectives to the pruner."""
        self.index.add((study, trial.number), trial)
        if self._pruner:
            for epoch, value in trial.intermediate_values.items():
                self._pruner.add(study, epoch, value)

    def _record(self, key: Key, epoch: int, value: float) -> None:
        self._journal.set_trial_intermediate_value(self.trial(key)._trial_id, epoch, value)
        if self._pruner:
            self._pruner.add(key[0], epoch, value)

    def _decide(self, key: Key, epoch: int) -> bool:
        """Return True if the trial is pruned after an epoch; a recorded decision is not changed."""
        trial = self.trial(key)
        decision = trial.user_attrs.get(f"decision:{epoch}")
        if decision == COLLAPSED:
            return True
        if self._pruner is None or key[0] not in self._pruned or not self._pruner.is_rung(epoch):
            return False
        if decision is None:
            stops = self._pruner.stops(key[0], epoch, trial.intermediate_values[epoch])
            decision = PRUNE if stops else KEEP
            self._set_attribute(trial, f"decision:{epoch}", decision)
        return bool(decision == PRUNE)

    def _set_attribute(self, trial: FrozenTrial, name: str, value: Any) -> None:
        """Write an attribute of a trial to the journal, unless it has this value already."""
        if trial.user_attrs.get(name) != value:
            self._journal.set_trial_user_attr(trial._trial_id, name, value)

    def _tell_twins(self, first: Key) -> None:
        """Write an ended trial's values and end to its twins: later trials with the same config."""
        ended = self.trial(first)
        for twin in self.index.twins.pop(first, []):
            waiting = self.trial(twin)
            for epoch, value in ended.intermediate_values.items():
                if epoch not in waiting.intermediate_values:
                    self._record(twin, epoch, value)
            self.tell(*twin, ended.state, attributes=_result_attributes(ended))


def last_value(trial: FrozenTrial) -> float | None:
    """Return the objective of a trial's last recorded epoch; None if no epoch is recorded."""
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]


def _result_attributes(trial: FrozenTrial) -> dict[str, Any]:
    return {k: trial.user_attrs[k] for k in COPIED_WITH_RESULT if k in trial.user_attrs}
