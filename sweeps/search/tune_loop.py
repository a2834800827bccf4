"""Search loop: Ray Tune runs the study's trials in slots until the study is done.

A slot is a process, or a group of DDP workers, that trains one trial after another. Tune's searcher
(``sweeps.search.searcher``) starts the trials that the study proposes, as many at a time as there
are slots. A slot ends a pruned trial by itself, after it has predicted, so Tune needs no
TrialScheduler. Tune's own files are temporary and are never read back.
"""

import signal
import tempfile
from types import FrameType
from typing import Any

import ray
from ray import tune

from sweeps.search.searcher import NotSaved, StudySearcher
from sweeps.search.tune_trial import SlotTrial


class _Interrupts(NotSaved, tune.Callback):
    """Tune callback that stops the sweep after Ctrl-C, between two steps of Tune.

    A second Ctrl-C raises KeyboardInterrupt at once.
    """

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def press(self, number: int, frame: FrameType | None) -> None:
        if self.searcher.interrupted:
            raise KeyboardInterrupt
        self.searcher.interrupted = True

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.searcher.stop_if_requested()


def search(searcher: StudySearcher) -> str | None:
    """Run the search with Ray Tune until it ends, then close the slots.

    Args:
        searcher: The searcher, which starts trials in the slots and records their results.

    Returns:
        The reason of an early end, as a sentence; None if all trials have ended.
    """
    interrupts = _Interrupts(searcher)
    plan = searcher.plan
    trainable = tune.with_parameters(SlotTrial, listing=plan.listing)
    # Tune's side of a trial holds no CPU, and writes to the disk of the driver's node.
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    driver_node = {"CPU": 0, f"node:{address}": 0.001}
    previous = signal.signal(signal.SIGINT, interrupts.press)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            tuner = tune.Tuner(
                tune.with_resources(trainable, driver_node),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=plan.file.name,
                    storage_path=temporary,
                    callbacks=[interrupts],
                    # A trial continues from the checkpoint in its trial folder.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            )
            tuner.fit()
        finally:
            signal.signal(signal.SIGINT, previous)
            searcher.limits.clock.close()
            searcher.slots.close()
    return searcher.halted
