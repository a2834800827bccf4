"""What has happened to a sweep's trials: the Optuna studies of one journal file."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.storage.driver_lock import DriverLock
from sweeps.study.index import ORIGIN, Index, Key
from sweeps.study.journal import JOURNAL, Journal
from sweeps.study.proposal import KEEP, PRUNE, is_stopped
from sweeps.study.pruner import PrunerSettings, make_pruner

KEPT = ("overrides", "signature", "repeat_of", "fold", "fold_of")
"""What a retry has of the trial that failed."""


class StudyRecord:
    """The trials of a sweep, as its journal has them.

    Args:
        folder: the sweep's folder, made if needed.
        studies: the names of its studies.
        pruned: those whose trials are stopped at rungs.
        pruner: `asha` stops trials at its rungs, `none` never.
        sign: the signature of the configuration that overrides stand for.
        lock: the folder's, if the caller has it already; closed with the record.

    Raises:
        InputError: another driver has the folder, or the journal is damaged before its last line.
    """

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
        """Let the next driver in. What is RUNNING stays so."""
        self._lock.close()

    def put_back(self, study: str, number: int) -> None:
        """Its slot was lost: the next `ask` hands it out again, going on from what is recorded.

        A trial that has ended keeps its end.
        """
        if (study, number) in self._index.running:
            self._index.unfinished.appendleft((study, number))

    def retry_failed(self) -> int:
        """Have each trial that was trained and failed trained once more; return how many.

        A retry is a trial of its own, with the failed one's parameters and `retry_of`, and written
        as one record. It comes before new trials, and counts neither to its study's share nor to
        the number that the next sampler is made from, so new trials are drawn as if it had run in
        its place. What failed again is retried only when this is called again. Twins of the failed
        trial keep their FAIL in the journal, as nothing that has ended is changed there; `counts`
        takes them as what the retry is, and a later proposal of the same becomes its twin.
        """
        failed = list(self._index.failed.values())
        for study, number in failed:
            trial = self._trial((study, number))
            kept = {name: trial.user_attrs[name] for name in KEPT if name in trial.user_attrs}
            attributes = {**kept, "retry_of": f"{study} {number}"}
            self._add(study, self._journal.add(self._studies[study]._study_id, trial, attributes))
        return len(failed)

    def knows(self, signature: str) -> bool:
        """Whether a trial has this signature."""
        return signature in self._index.latest

    def adopt(
        self,
        study: str,
        trial: FrozenTrial,
        point: optuna.trial.BaseTrial,
        overrides: Sequence[str],
        origin: str,
    ) -> None:
        """Take over a finished trial of another sweep, as one record: its values and decisions,
        with the parameters that `point` of this sweep's space has.

        It does not count to the study's share, but the sampler learns from it, and those of new
        trials are made from the numbers after it, so that nothing is drawn again.
        """
        kept = {k: v for k, v in trial.user_attrs.items() if k.startswith("decision:")}
        signature = trial.user_attrs["signature"]
        attributes = {"overrides": list(overrides), "signature": signature, ORIGIN: origin}
        record = create_trial(
            state=TrialState.RUNNING, params=point.params, distributions=point.distributions
        )
        number = self._studies[study]._study_id
        self._add(study, self._journal.add(number, record, {**kept, **attributes}, told=trial))

    def report(self, study: str, number: int, epoch: int, value: float) -> bool:
        """Record the value of an epoch and answer whether the trial stops here; only then say so.

        An epoch that is recorded keeps its value and its decision. For a trial that was stopped
        before, or has ended, nothing is recorded and the answer is True.
        """
        trial = self._trial((study, number))
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
        """End a trial and its twins as COMPLETE (value: the last one reported), PRUNED or FAIL.

        COMPLETE without a value, or with NaN, becomes FAIL; if the last decision was to prune, it
        is PRUNED, whatever its slot heard of that before it ended. `attributes` (of JSON values)
        are added to the trial's. The state is written last: after a kill before it the trial is
        handed out and told again. A trial that has ended keeps its end.
        """
        trial = self._trial((study, number))
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
        self._index.end((study, number), self._trial((study, number)))
        self._tell_twins((study, number))

    def trials(self) -> dict[str, list[FrozenTrial]]:
        """Each study's trials in the order of their numbers; to read, not to change."""
        return {study: found.get_trials(deepcopy=False) for study, found in self._studies.items()}

    def counts(self) -> Counter[str]:
        """How many trials are COMPLETE, PRUNED, FAIL and RUNNING, over all studies.

        A trial that is or was trained again counts as its retry, and so do its twins.
        """
        states: Counter[str] = Counter()
        for signature, key in self._index.latest.items():
            states[self._trial(key).state.name] += self._index.asked[signature]
        return states

    def failures(self) -> list[FrozenTrial]:
        """The trials that were trained and failed, with the `reason` told.

        Twins are left out, and so are trials that have been retried: the retry speaks for them.
        """
        return [self._trial(key) for key in self._index.failed.values()]

    def ended(self) -> int:
        """How many trials have ended, over all studies and starts; one in its retry has not."""
        return self._index.ended()

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
        self._index = Index()
        self._take_up()

    def _take_up(self) -> None:
        """Go on where the last driver was killed: index all trials, make decisions that are due."""
        found = [((study, t.number), t) for study, ts in self.trials().items() for t in ts]
        for key, trial in sorted(found, key=lambda entry: entry[1]._trial_id):
            self._add(key[0], trial)
        for key in self._index.unfinished:
            epoch = self._trial(key).last_step
            if epoch is not None:
                self._decide(key, epoch)
        for first in sorted(self._index.twins.keys() - self._index.running.keys()):
            self._tell_twins(first)

    def _add(self, study: str, trial: FrozenTrial) -> None:
        """Take in a trial of the journal."""
        self._index.add((study, trial.number), trial)
        if self._pruner:
            for epoch, value in trial.intermediate_values.items():
                self._pruner.add(study, epoch, value)

    def _write(
        self,
        study: str,
        trial: optuna.Trial | FrozenTrial,
        overrides: Sequence[str],
        **attributes: Any,
    ) -> None:
        """Write a trial with these overrides, and queue it if it is no twin."""
        attributes = {
            "overrides": list(overrides),
            "signature": self._sign(overrides),
            **attributes,
        }
        first = self._index.latest.get(attributes["signature"])
        told = None
        if first is not None:
            attributes["twin_of"] = f"{first[0]} {first[1]}"
            twin = self._trial(first)
            told = twin if twin.state.is_finished() else None
            if told and "reason" in told.user_attrs:
                attributes["reason"] = told.user_attrs["reason"]
        self._add(study, self._journal.add(self._studies[study]._study_id, trial, attributes, told))

    def _trial(self, key: Key) -> FrozenTrial:
        study, number = key
        find = self._journal.get_trial_id_from_study_id_trial_number
        return self._journal.get_trial(find(self._studies[study]._study_id, number))

    def _record(self, key: Key, epoch: int, value: float) -> None:
        self._journal.set_trial_intermediate_value(self._trial(key)._trial_id, epoch, value)
        if self._pruner:
            self._pruner.add(key[0], epoch, value)

    def _decide(self, key: Key, epoch: int) -> bool:
        """Whether the trial stops at this epoch; what was decided once stays decided."""
        if self._pruner is None or key[0] not in self._pruned or not self._pruner.is_rung(epoch):
            return False
        trial = self._trial(key)
        decision = trial.user_attrs.get(f"decision:{epoch}")
        if decision is None:
            stops = self._pruner.stops(key[0], epoch, trial.intermediate_values[epoch])
            decision = PRUNE if stops else KEEP
            self._journal.set_trial_user_attr(trial._trial_id, f"decision:{epoch}", decision)
        return bool(decision == PRUNE)

    def _tell_twins(self, first: Key) -> None:
        told = self._trial(first)
        for twin in self._index.twins.pop(first, []):
            waiting = self._trial(twin)
            for epoch, value in told.intermediate_values.items():
                if epoch not in waiting.intermediate_values:
                    self._record(twin, epoch, value)
            self.tell(*twin, told.state, told.user_attrs.get("reason"))


def last_value(trial: FrozenTrial) -> float | None:
    """What was reported last."""
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]
