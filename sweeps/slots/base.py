"""Base of both kinds of slots: calls that control a trial while it trains."""

import ray

from sweeps.slots.control import Stop, TrialControl


class Slot:
    """Actor with calls in the concurrency group ``control``, which run while ``train`` runs."""

    def __init__(self) -> None:
        self._control = TrialControl()

    @ray.method(concurrency_group="control")
    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """Set the study's decision after an epoch, as ``TrialControl.decide``."""
        self._control.decide(job, epoch, prune)

    @ray.method(concurrency_group="control")
    def stop(self, when: Stop) -> None:
        """Request a stop of the running job and of all later ones."""
        self._control.stop(when)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Prepare the end of the actor; there is nothing to do by default."""
