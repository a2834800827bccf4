"""Optuna samplers: one for each trial, seeded by the sweep's seed and the trial's number."""

import copy
import functools
import warnings
from bisect import insort
from collections.abc import Callable, Container, Sequence

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

FIT_TRIALS = 1000
"""Largest number of ended trials that TPE, Optuna's Bayesian sampler, learns from."""


def startup_trials(share: int) -> int:
    """Return the number of trials of a study that are drawn at random before TPE takes over.

    The number is a quarter of the study's planned trials, at least 4 and at most Optuna's default
    of 10. With 10 in all cases, three studies of six trials each would be random searches.

    Args:
        share: Planned number of trials of the study.
    """
    return min(10, max(4, share // 4))


def make_sampler(kind: str, seed: int, number: int, startup: int) -> optuna.samplers.BaseSampler:
    """Return the Optuna sampler that draws the parameters of one trial.

    The sampler depends only on the seed and the trial's number, so after a restart the same
    finished trials give the same new trial. Trials of the same number in different studies draw
    from the same random stream, so studies that are compared start from the same points. Optuna's
    option `group` makes TPE model each branch of the search space separately, since the option
    drawn for one parameter decides which other parameters exist. Optuna's option `constant_liar`
    makes TPE draw away from running trials and changes nothing if no other trial runs; Optuna 5
    made it the default for this reason (optuna#6738).

    Args:
        kind: "tpe" or "random".
        seed: Seed of the sweep, >= 0.
        number: Number of the trial in its study, counted without retries of failed trials.
        startup: Number of finished trials (COMPLETE or PRUNED) of the study before TPE takes over.
    """
    state = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=state)
    with warnings.catch_warnings():
        # `group` is still marked experimental; conditional spaces need it.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=state, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
        )


def learn(learned: list[FrozenTrial], trial: FrozenTrial) -> None:
    """Add an ended trial to those that TPE learns from; keep the last `FIT_TRIALS` by number.

    TPE learns from COMPLETE and PRUNED trials. They are ordered by number, not by the time of their
    end, so a restart that reads the journal keeps the same ones.

    Args:
        learned: Trials that TPE learns from, by number; changed in place.
        trial: The ended trial.
    """
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        insort(learned, trial, key=lambda other: other.number)
        del learned[:-FIT_TRIALS]


class RecentStudy(optuna.Study):
    """Optuna study that shows its sampler only some of its trials.

    For each draw, TPE reads all trials that it sees several times, so a draw in a study of 5,000
    trials would take five times as long as in one of 1,000.

    Args:
        name: The study's name.
        storage: Optuna storage that holds the study.
        sampler: Sampler that draws from the study.
        shown: Function that returns the trials that the sampler sees.
    """

    def __init__(
        self,
        name: str,
        storage: BaseStorage,
        sampler: optuna.samplers.BaseSampler,
        shown: Callable[[], Sequence[FrozenTrial]],
    ) -> None:
        super().__init__(name, storage, sampler)
        self._show = shown

    @functools.cached_property
    def _shown(self) -> Sequence[FrozenTrial]:
        return self._show()

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        """Return the trials that the sampler sees; Optuna's samplers call this to read trials."""
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown
