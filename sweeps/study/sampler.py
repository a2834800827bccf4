"""The sampler of each trial, made from the sweep's seed and the trial's number alone."""

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


def startup_trials(share: int) -> int:
    """How many trials of a study are drawn at random before TPE has enough to learn from.

    A quarter of the study's share of the trials, at least 4 and at most Optuna's default of 10:
    with 10 always, three studies of six trials each would be a random search that is called TPE.
    """
    return min(10, max(4, share // 4))


def make_sampler(kind: str, seed: int, number: int, startup: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number`: a restart draws the same trial from the same finished ones.

    Trials of the same number in different studies draw from the same stream, so what is compared
    starts from the same points. TPE models the parameters by branch (`group`), since a choice
    decides which others exist. `constant_liar` keeps trials that run side by side apart and
    changes nothing when one runs alone; Optuna 5 made it the default for that (optuna#6738). What
    it learns from is bounded: see `learn`.

    Args:
        kind: "tpe" or "random".
        seed: the sweep's, >= 0.
        startup: finished trials (COMPLETE or PRUNED) of its study before TPE takes over.
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
    """Add a trial that has ended to those that TPE learns from: the last `FIT_TRIALS` by number.

    It learns from COMPLETE and PRUNED ones. By number, not by when they ended, so a restart that
    reads the journal keeps the same.
    """
    if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
        insort(learned, trial, key=lambda other: other.number)
        del learned[:-FIT_TRIALS]


class RecentStudy(optuna.Study):
    """A study that shows its sampler some trials only.

    TPE goes through all trials that it sees several times a draw: over a whole study of 5,000 that
    costs five times as much as over a thousand.
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
        """What Optuna's samplers read trials by."""
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(shown) if deepcopy else shown
