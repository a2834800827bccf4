"""Proposals: trials of the journal that are to be trained, and refits."""

from dataclasses import dataclass

from optuna.trial import FrozenTrial

from sweeps.storage.trial_folder import FOLD_MARK
from sweeps.study.index import Key

PRUNE, KEEP = "prune", "keep"
"""Values of the attribute `decision:<epoch>`."""


@dataclass(frozen=True)
class Proposal:
    """A trial to train, or to continue.

    Attributes:
        study: Name of its Optuna study.
        number: Optuna's trial number in that study.
        overrides: Overrides that compose to its config.
        signature: Signature of the config and the data, also the name of the trial's folder.
        reported: Epoch -> value of the epochs that an earlier driver recorded.
        stopped: True if the trial was pruned at the last of these epochs and only its end is
            missing.
        unpruned: True if the trial is never pruned, because it repeats another trial with a new
            seed or with a fold held out.
        fold: Index of the held-out fold of a refit; None for other trials.
    """

    study: str
    number: int
    overrides: tuple[str, ...]
    signature: str
    reported: dict[int, float]
    stopped: bool = False
    unpruned: bool = False
    fold: int | None = None

    @classmethod
    def of(cls, key: Key, trial: FrozenTrial) -> "Proposal":
        """Return the proposal to train a trial of the journal from its last recorded epoch."""
        return cls(
            study=key[0],
            number=key[1],
            overrides=tuple(trial.user_attrs["overrides"]),
            signature=trial.user_attrs["signature"],
            reported=dict(trial.intermediate_values),
            stopped=is_stopped(trial),
            unpruned=not {"repeat_of", "fold"}.isdisjoint(trial.user_attrs),
            fold=trial.user_attrs.get("fold"),
        )


@dataclass(frozen=True)
class Refit:
    """A fused trial that is to be trained again with a fold held out.

    Attributes:
        member: Signature of the fused trial.
        fold: Index of the held-out fold, from 0.
        folds: Number of folds.
    """

    member: str
    fold: int
    folds: int

    @property
    def signature(self) -> str:
        """Signature of the refit."""
        return f"{self.member}{FOLD_MARK}{self.fold}of{self.folds}"


def is_stopped(trial: FrozenTrial) -> bool:
    """Return True if the decision after the trial's last epoch was to prune it."""
    return trial.user_attrs.get(f"decision:{trial.last_step}") == PRUNE
