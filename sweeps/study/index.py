"""Lookup of a sweep's trials by state and by signature (hash of config and dataset).

With this lookup, sampling a trial and recording a result need not read all trials of the journal.
"""

from collections import Counter, defaultdict, deque
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mtl.errors import InputError
from sweeps.study.sampler import learn

ORIGIN = "from"
"""Name of the Optuna user attribute of a trial that was taken over from another sweep.

The value is "<other sweep>: <study> <number>".
"""
FIRST = "first"
"""Name of the Optuna user attribute of a trial that started from a given point.

The value is the point: Optuna's parameters that were not drawn, by name.
"""
Key = tuple[str, int]
"""Key of a trial: name of its Optuna study, and the trial's number in the study."""


class Index:
    """Lookup of the trials in a sweep's Optuna studies by state and by signature.

    A signature is the hash of a trial's config and dataset. A retry is a failed trial that is
    trained again. Unless another form is named, an attribute holds a trial as its key, the pair
    (study's name, trial number).

    Attributes:
        sizes: Study's name -> number of the study's trials, retries left out.
        adopted: Study's name -> number of the study's trials that were taken over from another
            sweep.
        first: Study's name -> the given points from which trials of the study have started.
        asked: Signature -> number of trials with this signature, retries left out.
        latest: Signature -> the one trial with this signature that is trained: the first in the
            journal, or the last retry of the first.
        failed: Signature -> the trial in `latest`, if this trial has failed.
        running: Trial without a result -> the trial's signature.
        unfinished: Running trials that no process trains at present, the next one to train
            first.
        twins: Running trial -> later trials with the same signature, which wait for the running
            trial's result.
        repeats: Trial, as "<study> <number>" -> number of trials that repeat it with a new seed.
        learned: Study's name -> the ended trials, as Optuna's `FrozenTrial`, that the study's
            sampler learns from.
    """

    def __init__(self) -> None:
        self.sizes: Counter[str] = Counter()
        self.adopted: Counter[str] = Counter()
        self.first: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.asked: Counter[str] = Counter()
        self.latest: dict[str, Key] = {}
        self.failed: dict[str, Key] = {}
        self.running: dict[Key, str] = {}
        self.unfinished: deque[Key] = deque()
        self.twins: dict[Key, list[Key]] = {}
        self.repeats: Counter[str] = Counter()
        self.learned: defaultdict[str, list[FrozenTrial]] = defaultdict(list)

    def add(self, key: Key, trial: FrozenTrial) -> None:
        """Add a trial of the journal to the lookup; trials must be added in the journal's order.

        Args:
            key: Name of the trial's study, and the trial's number.
            trial: The trial.

        Raises:
            InputError: If the trial retries one that has not failed.
        """
        signature = trial.user_attrs["signature"]
        if "retry_of" in trial.user_attrs:
            if self.failed.pop(signature, None) is None:
                raise InputError(
                    f"trial {key[1]} of study {key[0]} retries a trial that has not failed"
                )
            self.latest[signature] = key
        else:
            self.sizes[key[0]] += 1
            self.asked[signature] += 1
            self.adopted[key[0]] += ORIGIN in trial.user_attrs
            if FIRST in trial.user_attrs:
                self.first[key[0]].append(trial.user_attrs[FIRST])
            if "repeat_of" in trial.user_attrs:
                self.repeats[trial.user_attrs["repeat_of"]] += 1
        latest = self.latest.setdefault(signature, key)
        self.running[key] = signature
        if trial.state.is_finished():
            self.end(key, trial)
        elif latest == key:
            self.unfinished.append(key)
        else:
            self.twins.setdefault(latest, []).append(key)

    def end(self, key: Key, trial: FrozenTrial) -> None:
        """Move a trial from the running to the ended ones.

        Args:
            key: Name of the trial's study, and the trial's number.
            trial: The trial with its final state.
        """
        signature = self.running.pop(key)
        if trial.state == TrialState.FAIL and self.latest[signature] == key:
            self.failed[signature] = key
        learn(self.learned[key[0]], trial)

    def ended(self) -> int:
        """Return the number of ended trials, without failed ones that are being trained again."""
        return self.sizes.total() - sum(self.asked[s] for s in set(self.running.values()))
