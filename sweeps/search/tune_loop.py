"""Ray Tune over the study, to the search's end.

Tune runs the trials: its Searcher (``sweeps.search.searcher``) hands it what the study proposes, as
many at a time as there are slots. A trial that the study prunes is told so in its slot and ends by
itself with its predictions, so no TrialScheduler that kills from outside is needed, and Tune's own
files are temporary and never read back.
"""

import signal
import tempfile
from types import FrameType
from typing import Any

import ray
from ray import tune

from mtl.dataset import Listing
from sweeps.search.searcher import NotSaved, StudySearcher
from sweeps.search.tune_trial import SlotTrial


class _Interrupts(NotSaved, tune.Callback):
    """Ctrl-C ends the sweep between two steps of Tune; a second one at once."""

    def __init__(self, searcher: StudySearcher) -> None:
        self.searcher = searcher

    def press(self, number: int, frame: FrameType | None) -> None:
        if self.searcher.pressed:
            raise KeyboardInterrupt
        self.searcher.pressed = True

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.searcher.stop_if_requested()


def search(searcher: StudySearcher, listing: Listing) -> str | None:
    """Run the search to its end.

    Returns:
        Why it ended early, or None.
    """
    interrupts = _Interrupts(searcher)
    trainable = tune.with_parameters(SlotTrial, listing=listing)
    # Tune's side of a trial holds nothing, and writes where this driver reads.
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    here = {"CPU": 0, f"node:{address}": 0.001}
    previous = signal.signal(signal.SIGINT, interrupts.press)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            tuner = tune.Tuner(
                tune.with_resources(trainable, here),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    num_samples=-1,
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    name=searcher.rules.sweep,
                    storage_path=temporary,
                    callbacks=[interrupts],
                    # The trial's folder holds what it goes on from.
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                    verbose=0,
                ),
            )
            tuner.fit()
        finally:
            signal.signal(signal.SIGINT, previous)
            searcher.clock.close()
            searcher.slots.close()
    return searcher.halted
