"""Index of a sweep's trials by signature and state, so that no draw or report reads all trials."""

from collections import Counter, defaultdict, deque

from optuna.trial import FrozenTrial, TrialState

from sweeps.study.sampler import learn

ORIGIN = "from"
"""Attribute of a trial that was taken over from another sweep: sweep, study and number."""
Key = tuple[str, int]
"""A study's name and a trial's number in it."""


class Index:
    """Index of the trials of all studies by signature and state, made from the journal alone.

    Attributes:
        sizes: Study -> number of its trials, retries left out.
        adopted: Study -> number of its trials that were taken over from another sweep.
        asked: Signature -> number of trials that have it, retries left out.
        latest: Signature -> the trial that is trained for it: the first one, or its last retry.
        failed: Signature -> the trial in `latest`, if it has failed.
        running: Trial without a result -> its signature.
        unfinished: Running trials that no slot trains at present, the next one first.
        twins: Running trial -> its twins: later trials with the same signature, which wait for its
            result.
        repeats: Trial, as "<study> <number>" -> number of trials that repeat it with a new seed.
        learned: Study -> the finished trials that its sampler learns from.
    """

    def __init__(self) -> None:
        self.sizes: Counter[str] = Counter()
        self.adopted: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.latest: dict[str, Key] = {}
        self.failed: dict[str, Key] = {}
        self.running: dict[Key, str] = {}
        self.unfinished: deque[Key] = deque()
        self.twins: dict[Key, list[Key]] = {}
        self.repeats: Counter[str] = Counter()
        self.learned: defaultdict[str, list[FrozenTrial]] = defaultdict(list)

    def add(self, key: Key, trial: FrozenTrial) -> None:
        """Add a trial of the journal; trials must be added in the order of their writing."""
        signature = trial.user_attrs["signature"]
        if "retry_of" in trial.user_attrs:
            del self.failed[signature]
            self.latest[signature] = key
        else:
            self.sizes[key[0]] += 1
            self.asked[signature] += 1
            self.adopted[key[0]] += ORIGIN in trial.user_attrs
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
        """Move a running trial, which now has its result, to the ended ones."""
        signature = self.running.pop(key)
        if trial.state == TrialState.FAIL and self.latest[signature] == key:
            self.failed[signature] = key
        learn(self.learned[key[0]], trial)

    def ended(self) -> int:
        """Return the number of ended trials; a failed trial that is being retried has not ended."""
        return self.sizes.total() - sum(self.asked[s] for s in set(self.running.values()))
