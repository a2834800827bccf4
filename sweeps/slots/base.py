"""Base class of slots: Ray actors that train one trial after another."""

import ray

from sweeps.slots.control import Stop, TrialControl


class Slot:
    """Base class of slots, with the calls that control a trial while it trains.

    A slot is a Ray actor that trains one trial after another. The calls are in its concurrency
    group ``control``, so they run while its method ``train`` runs.
    """

    def __init__(self) -> None:
        self._control = TrialControl()

    @ray.method(concurrency_group="control")
    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """Set the study's decision to prune a trial after an epoch, or to go on.

        Args:
            job: Name of the trial's job; the decision is dropped if another job is in training.
            epoch: The epoch.
            prune: True if the trial is pruned.
        """
        self._control.decide(job, epoch, prune)

    @ray.method(concurrency_group="control")
    def stop(self, when: Stop) -> None:
        """Request that the running trial and all later ones stop.

        Args:
            when: Urgency: after the current epoch, or at once.
        """
        self._control.stop(when)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Prepare the end of the actor; the base class has nothing to prepare."""
