"""What a sweep's trials amount to, kept as they come, so that no draw or report searches them."""

from collections import Counter, defaultdict, deque

from optuna.trial import FrozenTrial, TrialState

from sweeps.study.sampler import learn

ORIGIN = "from"
"""Attribute of a trial that was taken over: from where."""
Key = tuple[str, int]  # a study's name and a trial's number in it


class Index:
    """The trials of all studies by signature and state; it follows from the journal alone.

    Attributes:
        sizes: Study -> how many trials it has, retries left out.
        adopted: Study -> how many of these were taken over from another sweep.
        asked: Signature -> how many trials have it, retries left out.
        latest: Signature -> the trial that is trained for it: the first one, or its last retry.
        failed: Signature -> that trial, if it has failed.
        running: Trial without a result -> signature.
        unfinished: Those of them that are to be trained and that nobody trains, next one first.
        twins: A running trial -> those that wait for its result.
        repeats: Trial, as "<study> <number>" -> how many repeat it with another seed.
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
        """Take in a trial that is in the journal; of all trials, in the order they came."""
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
        """A running trial has its result."""
        signature = self.running.pop(key)
        if trial.state == TrialState.FAIL and self.latest[signature] == key:
            self.failed[signature] = key
        learn(self.learned[key[0]], trial)

    def ended(self) -> int:
        """How many have ended, retries left out; one that is in its retry has not."""
        return self.sizes.total() - sum(self.asked[s] for s in set(self.running.values()))
