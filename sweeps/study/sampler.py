"""The sampler of each trial, made from the sweep's seed and the trial's number alone."""

import copy
import functools
import warnings
from collections.abc import Container

import numpy as np
import optuna
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
    changes nothing when one runs alone; Optuna 5 made it the default for that (optuna#6738). On a
    `RecentStudy` it learns from the last `FIT_TRIALS` finished trials alone.

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


class RecentStudy(optuna.Study):
    """A study that shows its sampler what is running and the last `FIT_TRIALS` that finished.

    "Last" by number, so a restart draws the same; finished means COMPLETE or PRUNED, as TPE learns
    from nothing else. It goes through all it sees several times a draw: over a whole study of 5,000
    trials that costs five times as much as over the last thousand.

    It reads its trials once: make one for each draw.
    """

    @functools.cached_property
    def _recent(self) -> list[FrozenTrial]:
        trials = self._storage.get_all_trials(self._study_id, deepcopy=False)
        finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        running = [t for t in trials if t.state == TrialState.RUNNING]
        return sorted([*finished[-FIT_TRIALS:], *running], key=lambda trial: trial.number)

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        """What Optuna's samplers read trials by."""
        seen = [trial for trial in self._recent if states is None or trial.state in states]
        return copy.deepcopy(seen) if deepcopy else seen
