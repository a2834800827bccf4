"""Trials to train next (proposals), and ensemble trials to train again without a fold (refits)."""

from dataclasses import dataclass

from optuna.trial import FrozenTrial

from sweeps.storage.trial_folder import FOLD_MARK
from sweeps.study.index import Key

PRUNE, COLLAPSED, KEEP = "prune", "collapsed", "keep"
"""Values of a trial's Optuna attribute `decision:<epoch>`: prune the trial then, or go on.

The first two prune the trial. "collapsed" is also the attribute `reason` of a trial that was pruned
because all its tasks had collapsed (their outputs are nearly constant).
"""
COLLAPSED_TASKS = "collapsed_tasks"
"""Name of the Optuna attribute with the tasks that had collapsed when a trial ended."""


@dataclass(frozen=True)
class Proposal:
    """Trial to train next, or to continue after its last recorded epoch.

    Attributes:
        study: Name of the trial's Optuna study.
        number: Optuna's trial number in that study.
        overrides: Hydra overrides that compose to the trial's config.
        signature: Hash of the trial's config and dataset; also the name of its folder.
        reported: Epoch -> objective, for the epochs that are in the journal already.
        stopped: True if the trial was pruned at the last epoch in `reported`, but the trial's end
            is not recorded yet.
        unpruned: True if the trial is never pruned, because it repeats another trial with a new
            seed or with a fold held out.
        fold: Index of the held-out fold, if this is an ensemble's trial that is trained again; else
            None.
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
        """Return the proposal to train a trial of the journal from its last recorded epoch on.

        Args:
            key: Name of the trial's study, and the trial's number.
            trial: The trial.
        """
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
    """Trial of the ensemble that is to be trained again with one fold of the videos held out.

    Attributes:
        member: Signature (hash of config and dataset) of the ensemble's trial.
        fold: Index of the held-out fold, from 0.
        folds: Number of folds.
    """

    member: str
    fold: int
    folds: int

    @property
    def signature(self) -> str:
        """Text that identifies the training: the member's signature, the fold, and `folds`.

        The member is the ensemble's trial that is trained again without the fold; a signature is
        the hash of a trial's config and dataset; `folds` is the number of folds.
        """
        return f"{self.member}{FOLD_MARK}{self.fold}of{self.folds}"


def is_stopped(trial: FrozenTrial) -> bool:
    """Return True if the study decided to prune the trial after its last recorded epoch."""
    return last_decision(trial) in (PRUNE, COLLAPSED)


def last_decision(trial: FrozenTrial) -> str | None:
    """Return the study's decision after a trial's last recorded epoch; None if there is none."""
    decision: str | None = trial.user_attrs.get(f"decision:{trial.last_step}")
    return decision
