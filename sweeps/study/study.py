"""A sweep's record of search, pruning and resume: the Optuna studies of one journal file."""

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.study.index import ORIGIN, Index, Key
from sweeps.study.journal import JOURNAL, DriverLock, Journal
from sweeps.study.proposal import KEEP, PRUNE, Proposal, Refit, is_stopped
from sweeps.study.pruner import PrunerSettings, make_pruner
from sweeps.study.sampler import RecentStudy, make_sampler, startup_trials

FIRST_NEW_SEED = 1001
"""Of the seeds that the best configs are trained again with."""
KEPT = ("overrides", "signature", "repeat_of", "fold", "fold_of")
"""What a retry has of the trial that failed."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class SweepStudy:
    """One Optuna study for each combination of compared values, in `folder`/study.journal.

    A trial enters the journal as one record: parameters, `overrides`, `signature` and, if an
    earlier trial has the same signature, `twin_of`. A twin is never trained: it is told what the
    first one got, at once or when that one ends. Each rung adds `decision:<epoch>`, a failure its
    `reason`. A failed trial that is trained again is a new one with `retry_of`. What has no result
    yet is RUNNING. There is no other state, so a new driver goes on where the last one was killed;
    with one trial at a time it ends with an undisturbed sweep's trials.

    Once a combination's trials have ended, its best one is trained again with each of `seeds` new
    seeds, unpruned, in a study of their own, `<study> seeds`; these trials have `repeat_of`. If the
    best one becomes another (more trials, a retry), that one is trained with the new seeds too.

    Once all these have ended, the trials that `refits` names are trained again with a fold held
    out, unpruned, in a study of their own, `<name> folds`; these have `fold` and `fold_of`.

    Args:
        folder: the sweep's folder, made if needed.
        name: the sweep's name; studies are called `<name>` or `<name>/<label>`.
        combinations: the compared values of each study; [{}] without a comparison.
        labels: one for each combination; not used when there is one empty combination.
        trials: how many in all, in equal shares (the first studies get one more if need be).
            More than the journal has extend it; with fewer, only what is RUNNING is handed out.
        sampler: "tpe" or "random".
        seed: of the sampler, >= 0.
        pruner: `asha` stops trials at its rungs, `none` never.
        sample: draws one configuration on a trial, given the compared values, as overrides.
        sign: the signature of the configuration that overrides stand for.
        seeds: with how many new seeds each combination's best trial is trained again.
        refits: what is to be trained again with folds held out; asked once the rest has ended.
        lock: the folder's, if the caller has it already; closed with the study.

    Raises:
        InputError: another driver has the folder, or the journal is damaged before its last line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        combinations: Sequence[Mapping[str, Any]],
        labels: Sequence[str],
        trials: int,
        sampler: str,
        seed: int,
        pruner: PrunerSettings,
        sample: Callable[[optuna.Trial, Mapping[str, Any]], list[str]],
        sign: Callable[[Sequence[str]], str],
        seeds: int = 0,
        refits: Callable[[], Sequence[Refit]] | None = None,
        lock: DriverLock | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._kind, self._seed = sampler, seed
        self._sample, self._sign = sample, sign
        self._pruner = make_pruner(pruner)
        names = [name] if list(combinations) == [{}] else [f"{name}/{label}" for label in labels]
        self._chosen = dict(zip(names, combinations, strict=True))
        each, more = divmod(trials, len(names))
        self._shares = {study: each + (i < more) for i, study in enumerate(names)}
        self._seeds = seeds
        self._repeats = {study: f"{study} seeds" for study in names} if seeds else {}
        self._refits = refits
        self._due: deque[Refit] | None = None
        self._folds = [f"{name} folds"] if refits else []
        self._lock = lock or DriverLock(folder)
        try:
            self._open(folder / JOURNAL)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let the next driver in. What is RUNNING stays so."""
        self._lock.close()

    def ask(self) -> Proposal | None:
        """The next trial to train: those an earlier driver left, then new ones, studies in turn.

        None when all have been handed out; `done` says whether they have also ended.
        """
        while not self._index.unfinished:
            study = self._next_study()
            if study is not None:
                self._propose(study)
                continue
            refit = self._next_refit()
            if refit is None:
                return None
            self._refit(refit)
        key = self._index.unfinished.popleft()
        return Proposal.of(key, self._trial(key))

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

    def names(self) -> list[str]:
        """The study of each combination, in their order."""
        return list(self._chosen)

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
        value = _last_value(trial) if state == TrialState.COMPLETE else None
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

    @property
    def planned(self) -> int:
        """How many trials there will be, over all studies; those of a refit once they are known."""
        due = sum(self._index.sizes[study] for study in self._folds) + len(self._due or ())
        adopted = self._index.adopted.total()
        return sum(self._shares.values()) + adopted + self._seeds * len(self._repeats) + due

    def repeats(self) -> dict[str, list[FrozenTrial]]:
        """Of each combination's study the finished trials of its best config with new seeds."""
        found: dict[str, list[FrozenTrial]] = {}
        for study, repeats in self._repeats.items():
            best = self._best(study)
            trials = self._studies[repeats].get_trials(deepcopy=False, states=FINISHED)
            found[study] = [t for t in trials if t.user_attrs["repeat_of"] == best]
        return found

    @property
    def done(self) -> bool:
        """Whether every trial has been asked for and has ended."""
        idle = not self._index.running and self._next_study() is None
        return idle and self._next_refit() is None

    def _open(self, path: Path) -> None:
        self._journal = Journal(path)
        known = {study.study_name for study in self._journal.get_all_studies()}
        names = [*self._chosen, *self._repeats.values(), *self._folds]
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

    def _next_study(self) -> str | None:
        """The study with the fewest trials among those that have not had their share; then, of
        those whose trials have ended, one whose best config has not had all its seeds.
        """
        sizes = self._index.sizes
        short = [study for study in self._shares if sizes[study] < self._share(study)]
        if short:
            return min(short, key=lambda study: sizes[study])
        busy = {study for study, _ in self._index.running}
        seeded = {
            study: self._index.repeats[best]
            for study in self._repeats.keys() - busy
            if (best := self._best(study))
        }
        few = [study for study in self._repeats if seeded.get(study, self._seeds) < self._seeds]
        return min(few, key=lambda study: seeded[study], default=None)

    def _next_refit(self) -> Refit | None:
        """What is still to be trained with a fold held out, once all else has ended."""
        busy = {study for study, _ in self._index.running} - {*self._folds}
        if self._refits is None or busy:
            return None
        if self._due is None:
            self._due = deque(r for r in self._refits() if r.signature not in self._index.latest)
        return self._due[0] if self._due else None

    def _share(self, study: str) -> int:
        """How many trials a study is to have, those that it adopted included."""
        return self._shares[study] + self._index.adopted[study]

    def _best(self, study: str) -> str | None:
        """The study's best trial, as `repeat_of` names it: of the completed ones, if there are."""
        trials = self._studies[study].get_trials(deepcopy=False)
        for state in (TrialState.COMPLETE, TrialState.PRUNED):
            values = {t.number: _last_value(t) for t in trials if t.state == state}
            known = {n: v for n, v in values.items() if v is not None and not math.isnan(v)}
            if known:
                return f"{study} {max(known, key=lambda number: (known[number], -number))}"
        return None

    def _propose(self, study: str) -> None:
        """Draw the study's next trial, write it, and queue it if it is to be trained."""
        if self._index.sizes[study] >= self._share(study):
            self._repeat(study)
            return
        startup = startup_trials(max(self._shares.values()))
        sampler = make_sampler(self._kind, self._seed, self._index.sizes[study], startup)
        shown = RecentStudy(study, self._journal, sampler, lambda: self._shown(study))
        draft = self._journal.draft(shown)
        self._write(study, draft, self._sample(draft, self._chosen[study]))

    def _repeat(self, study: str) -> None:
        """Write the study's best trial once more, with a new seed."""
        best = self._best(study)
        assert best is not None, f"{study} has no trial to repeat"
        trial = self._trial((study, int(best.rpartition(" ")[2])))
        seed = FIRST_NEW_SEED + self._index.repeats[best]
        overrides = [*trial.user_attrs["overrides"], f"training.seed={seed}"]
        self._write(self._repeats[study], trial, overrides, repeat_of=best)

    def _refit(self, refit: Refit) -> None:
        """Write the next trial of the refit."""
        assert self._due is not None, "nobody asked for a refit"
        trial = self._trial(self._index.latest[refit.member])
        kept = {"fold": refit.fold, "fold_of": refit.member, "signature": refit.signature}
        self._write(self._folds[0], trial, trial.user_attrs["overrides"], **kept)
        self._due.popleft()

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

    def _shown(self, study: str) -> list[FrozenTrial]:
        """What the study's sampler is to know of."""
        running = [self._trial(key) for key in self._index.running if key[0] == study]
        return sorted([*self._index.learned[study], *running], key=lambda trial: trial.number)

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
        pruned = key[0] in self._chosen
        if self._pruner is None or not pruned or not self._pruner.is_rung(epoch):
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


def _last_value(trial: FrozenTrial) -> float | None:
    return None if trial.last_step is None else trial.intermediate_values[trial.last_step]
