"""Order of a sweep's trials: new points, best trials with new seeds, ensemble trials on folds."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.storage.driver_lock import DriverLock
from sweeps.study.index import FIRST
from sweeps.study.proposal import Proposal, Refit
from sweeps.study.pruner import PrunerSettings
from sweeps.study.record import StudyRecord, last_value
from sweeps.study.sampler import make_sampler, startup_trials

FIRST_NEW_SEED = 1001
"""First of the consecutive training seeds with which the best configs are trained again."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class SweepStudy:
    """Source of a sweep's trials, with an Optuna study for each combination of compared values.

    A trial enters the journal (`folder`/study.journal) as one record: its parameters and the
    attributes `overrides`, `signature` (hash of config and dataset) and, if an earlier trial has
    the same signature, `twin_of`. Such a twin is never trained: it gets the result of the earlier
    trial. Each rung (epoch at which a trial may be pruned) adds the attribute `decision:<epoch>`, a
    failure adds `reason`. A failed trial that is trained again is a new trial with `retry_of`. A
    trial without a result is RUNNING. There is no other state, so a new driver (process that runs
    the sweep) continues where the last one was killed. If trials run one at a time, a sweep that
    was killed and continued ends with the same trials as one that was not.

    The first trials of a study start from its given points, each point once: the trial has the
    point's parameters and draws the others, and the attribute `first` is the point.

    A task has collapsed if its outputs are nearly constant. A trial of which all tasks have
    collapsed is pruned, at a rung or not: it gets `decision:<epoch>` and the `reason` "collapsed".
    The tasks that have collapsed at a trial's end are in `collapsed_tasks`.

    After all trials of a combination have ended, its best trial is trained again with each of
    `seeds` new seeds, unpruned, in another study, `<study> seeds`; these trials have `repeat_of`.
    If another trial becomes the best one later (after more trials or a retry), it is trained with
    the new seeds too.

    After that, the ensemble's trials that `refit_members` returns are trained again, unpruned, with
    a fold of the videos held out, in another study, `<name> <n> folds`; these trials have `fold`
    and `fold_of`.

    Args:
        folder: The run folder; it is made if needed.
        name: The sweep's name. Studies are called `<name>` or `<name>/<label>`.
        combinations: Compared values of each study; [{}] without a comparison.
        labels: Label of each combination; not used if the only combination is empty.
        trials: Number of trials of all studies together, in equal shares (the first studies get one
            more if it does not divide). A larger number than the journal has extends the sweep;
            with a smaller one only RUNNING trials are proposed.
        sampler: "tpe" or "random".
        seed: Seed of the samplers, >= 0.
        pruner: Settings of the pruner; its kind is `asha` or `none`.
        sample: Function that draws the parameters of an Optuna trial, given the compared values,
            and returns them as Hydra overrides.
        sign: Function that returns the signature of the config that overrides compose to.
        first: For each combination its given points in their order, each as the parameters that
            are not drawn, by Optuna's names. Points that the journal has already are not trained
            again.
        seeds: Number of new seeds with which each combination's best trial is trained again.
        folds: Number of folds on which the ensemble's trials are trained again; 0 for none.
        lock: The folder's lock if the caller holds it already. `close` releases the lock.

    Attributes:
        record: Record of the trials in the journal.
        refit_members: Function that returns the ensemble's trials to train again, with their folds.
            It is called once, after all other trials have ended. With None no trial is trained on
            folds.

    Raises:
        InputError: If another process holds the folder's lock, or a line of the journal is damaged,
            except a half-written last one.
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
        first: Sequence[Sequence[Mapping[str, Any]]] = (),
        seeds: int = 0,
        folds: int = 0,
        lock: DriverLock | None = None,
    ) -> None:
        self._kind, self._seed, self._sample = sampler, seed, sample
        names = [name] if list(combinations) == [{}] else [f"{name}/{label}" for label in labels]
        self._chosen = dict(zip(names, combinations, strict=True))
        self._first = dict(zip(names, first or [()] * len(names), strict=True))
        each, more = divmod(trials, len(names))
        self._shares = {study: each + (i < more) for i, study in enumerate(names)}
        self._seeds = seeds
        self._repeats = {study: f"{study} seeds" for study in names} if seeds else {}
        self.refit_members: Callable[[], Sequence[Refit]] | None = None
        self._due: deque[Refit] | None = None
        # Refits on another number of folds have another study, which is left as it is.
        self._folds = [f"{name} {folds} folds"] if folds else []
        studies = [*names, *self._repeats.values(), *self._folds]
        self.record = StudyRecord(folder, studies, self._chosen, pruner, sign, lock)
        self._index = self.record.index

    def close(self) -> None:
        """Release the lock of the run folder; RUNNING trials stay RUNNING in the journal."""
        self.record.close()

    def ask(self) -> Proposal | None:
        """Return the next trial to train; None if every trial has been proposed.

        Trials that an earlier process left unfinished come first, then new ones, the Optuna studies
        in turn. Proposed trials may still be running when this returns None; `done` is True once
        all have ended.
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
        return Proposal.of(key, self.record.trial(key))

    def names(self) -> list[str]:
        """Return the names of the Optuna studies, one for each combination of compared values."""
        return list(self._chosen)

    @property
    def planned(self) -> int:
        """Number of planned trials of all studies, those trained again with new seeds included.

        Trials that are trained again on folds count once the ensemble is known.
        """
        due = sum(self._index.sizes[study] for study in self._folds) + len(self._due or ())
        adopted = self._index.adopted.total()
        return sum(self._shares.values()) + adopted + self._seeds * len(self._repeats) + due

    @property
    def most_trials(self) -> int:
        """Largest number of trials that compete for kept weights: all but those on folds.

        These are the planned trials and those of earlier starts, which may have planned more.
        """
        sizes = self._index.sizes
        searched = sum(max(self._share(study), sizes[study]) for study in self._shares)
        return searched + sum(self._seeds + sizes[study] for study in self._repeats.values())

    @property
    def refits(self) -> int:
        """Number of trials that the journal has on this number of folds."""
        return sum(self._index.sizes[study] for study in self._folds)

    def repeats(self) -> dict[str, list[FrozenTrial]]:
        """Return a dict: study's name -> list of finished trials with new seeds.

        Each of these trials trained the study's best config with another training seed.
        """
        found: dict[str, list[FrozenTrial]] = {}
        for study, repeats in self._repeats.items():
            best = self._best(study)
            trials = self.record.trials_of(repeats, FINISHED)
            found[study] = [t for t in trials if t.user_attrs.get("repeat_of") == best]
        return found

    @property
    def done(self) -> bool:
        """True if every planned trial has been proposed and has ended."""
        return not self._index.running and not self.has_next()

    def has_next(self) -> bool:
        """Return True if a trial is left to propose; all of them may be twins of earlier ones."""
        if self._index.unfinished or self._next_study() is not None:
            return True
        return self._next_refit() is not None

    @property
    def refitting(self) -> bool:
        """True if the ensemble's trials to train on folds are chosen; no other trial is left."""
        busy = any(study in self._folds for study, _ in self._index.running)
        return busy or self._due is not None

    def _next_study(self) -> str | None:
        """Return the name of the study that gets the next trial; None if no study needs one.

        Among the studies with fewer trials than planned, it is the one with the fewest. If there
        are none, it is a study in which all trials have ended, but the best config was not yet
        trained with all new seeds.
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
        """Return the next ensemble trial to train again with a fold held out; None if none is due.

        None is due until all other trials have ended.
        """
        busy = {study for study, _ in self._index.running} - {*self._folds}
        if not self._folds or self.refit_members is None or busy:
            return None
        if self._due is None:
            self._due = deque(r for r in self.refit_members() if not self.record.knows(r.signature))
        return self._due[0] if self._due else None

    def _share(self, study: str) -> int:
        """Return the sum of a study's planned trials and those taken over from other sweeps."""
        return self._shares[study] + self._index.adopted[study]

    def _best(self, study: str) -> str | None:
        """Return a study's best trial as "<study> <number>"; None if no ended trial has a value.

        COMPLETE trials rank before PRUNED ones.
        """
        trials = self.record.trials_of(study)
        for state in (TrialState.COMPLETE, TrialState.PRUNED):
            values = {t.number: last_value(t) for t in trials if t.state == state}
            known = {n: v for n, v in values.items() if v is not None and not math.isnan(v)}
            if known:
                return f"{study} {max(known, key=lambda number: (known[number], -number))}"
        return None

    def _propose(self, study: str) -> None:
        """Write a study's next trial to the journal.

        It is the study's next given point, a new point, or the study's best trial with a new
        training seed.
        """
        if self._index.sizes[study] >= self._share(study):
            self._repeat(study)
            return
        startup = startup_trials(max(self._shares.values()))
        sampler = make_sampler(self._kind, self._seed, self._index.sizes[study], startup)
        asked = self._index.first[study]
        point = next((point for point in self._first[study] if point not in asked), {})
        draft = self.record.draft(study, sampler, lambda: self._shown(study), point)
        attributes = {FIRST: dict(point)} if point else {}
        self.record.write(study, draft, self._sample(draft, self._chosen[study]), **attributes)

    def _repeat(self, study: str) -> None:
        """Write the study's best trial to the journal once more, with a new training seed."""
        best = self._best(study)
        assert best is not None, f"{study} has no trial to repeat"
        trial = self.record.trial((study, int(best.rpartition(" ")[2])))
        seed = FIRST_NEW_SEED + self._index.repeats[best]
        overrides = [*trial.user_attrs["overrides"], f"training.seed={seed}"]
        self.record.write(self._repeats[study], trial, overrides, repeat_of=best)

    def _refit(self, refit: Refit) -> None:
        """Write an ensemble trial to the journal once more, to be trained with a fold held out."""
        assert self._due is not None, "no refit is due"
        trial = self.record.trial(self._index.latest[refit.member])
        kept = {"fold": refit.fold, "fold_of": refit.member, "signature": refit.signature}
        self.record.write(self._folds[0], trial, trial.user_attrs["overrides"], **kept)
        self._due.popleft()

    def _shown(self, study: str) -> list[FrozenTrial]:
        """Return the trials that a study's sampler sees, sorted by number.

        They are all running trials and the last 1,000 COMPLETE or PRUNED trials of the study.
        """
        running = [self.record.trial(key) for key in self._index.running if key[0] == study]
        return sorted([*self._index.learned[study], *running], key=lambda trial: trial.number)
