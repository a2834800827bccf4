"""A trial that is to be trained, as the journal has it."""

from dataclasses import dataclass

from optuna.trial import FrozenTrial

from sweeps.storage.trial_folder import FOLD
from sweeps.study.index import Key

PRUNE, KEEP = "prune", "keep"  # what `decision:<epoch>` says


@dataclass(frozen=True)
class Proposal:
    """What to train next."""

    study: str
    number: int
    """Optuna's trial number in that study."""
    overrides: tuple[str, ...]
    signature: str
    reported: dict[int, float]
    """Epoch -> value, as far as an earlier driver got with this trial."""
    stopped: bool = False
    """It was stopped at the last of these epochs, and only its end is missing."""

    unpruned: bool = False
    """No rung stops it: it repeats another with a new seed, or with a fold held out."""

    fold: int | None = None
    """Of the refit: the one held out."""

    @classmethod
    def of(cls, key: Key, trial: FrozenTrial) -> "Proposal":
        """The proposal to train a trial from where it stands."""
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
    """A trial to train anew with a fold held out.

    Attributes:
        member: The trial's signature.
        fold: Which, of so many ``folds``.
    """

    member: str
    fold: int
    folds: int

    @property
    def signature(self) -> str:
        """Its own."""
        return f"{self.member}{FOLD}{self.fold}of{self.folds}"


def is_stopped(trial: FrozenTrial) -> bool:
    """Whether it was decided that the trial ends at its last epoch."""
    return trial.user_attrs.get(f"decision:{trial.last_step}") == PRUNE
