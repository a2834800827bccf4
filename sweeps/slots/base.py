"""What a slot of either kind is told while it trains."""

import ray

from sweeps.slots.control import Stop, TrialControl


class Slot:
    """The actor's ``control`` calls, which reach it while ``train`` runs."""

    def __init__(self) -> None:
        self._control = TrialControl()

    @ray.method(concurrency_group="control")
    def decide(self, job: str, epoch: int, prune: bool) -> None:
        """The study's word on an epoch that a job waits after."""
        self._control.decide(job, epoch, prune)

    @ray.method(concurrency_group="control")
    def stop(self, when: Stop) -> None:
        """The sweep ends: the running job, and any that still comes, ends."""
        self._control.stop(when)

    @ray.method(concurrency_group="control")
    def close(self) -> None:
        """Nothing is left to end: the process ends with its actor."""
