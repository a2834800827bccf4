"""What a sweep trains next: new draws, then the best with new seeds, then folds held out."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sweeps.storage.driver_lock import DriverLock
from sweeps.study.proposal import Proposal, Refit
from sweeps.study.pruner import PrunerSettings
from sweeps.study.record import StudyRecord, last_value
from sweeps.study.sampler import RecentStudy, make_sampler, startup_trials

FIRST_NEW_SEED = 1001
"""Of the seeds that the best configs are trained again with."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class SweepStudy(StudyRecord):
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
    out, unpruned, in a study of their own, `<name> <n> folds`; these have `fold` and `fold_of`.

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
        folds: into how many training and validation videos are cut for the refit; 0 for none.
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
        folds: int = 0,
        refits: Callable[[], Sequence[Refit]] | None = None,
        lock: DriverLock | None = None,
    ) -> None:
        self._kind, self._seed, self._sample = sampler, seed, sample
        names = [name] if list(combinations) == [{}] else [f"{name}/{label}" for label in labels]
        self._chosen = dict(zip(names, combinations, strict=True))
        each, more = divmod(trials, len(names))
        self._shares = {study: each + (i < more) for i, study in enumerate(names)}
        self._seeds = seeds
        self._repeats = {study: f"{study} seeds" for study in names} if seeds else {}
        self._refits = refits
        self._due: deque[Refit] | None = None
        # What was cut into another number of folds is left as it is.
        self._folds = [f"{name} {folds} folds"] if refits else []
        studies = [*names, *self._repeats.values(), *self._folds]
        super().__init__(folder, studies, self._chosen, pruner, sign, lock)

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

    def names(self) -> list[str]:
        """The study of each combination, in their order."""
        return list(self._chosen)

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
            values = {t.number: last_value(t) for t in trials if t.state == state}
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

    def _shown(self, study: str) -> list[FrozenTrial]:
        """What the study's sampler is to know of."""
        running = [self._trial(key) for key in self._index.running if key[0] == study]
        return sorted([*self._index.learned[study], *running], key=lambda trial: trial.number)
