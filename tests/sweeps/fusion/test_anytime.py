"""The best so far is written beside the search, and nothing there ends the search."""

import threading
import time
from typing import Any

from sweeps.fusion.anytime import REST_RATIO, AnytimeFusion

WAIT_SECONDS = 10.0


class Fusion:
    """Counts how often it was asked; the first ``broken`` times it breaks."""

    def __init__(self, broken: int = 0) -> None:
        self.asked, self.broken = 0, broken
        self.done = threading.Semaphore(0)

    def improve(self) -> bool:
        self.asked += 1
        self.done.release()
        if self.asked <= self.broken:
            raise OSError("no space left")
        return True


def running(fusion: Any, said: list[str]) -> tuple[AnytimeFusion, Any]:
    anytime = AnytimeFusion(fusion)
    return anytime, anytime.running(said.append)


def test_each_end_of_a_trial_is_followed_by_a_fusion_and_without_one_there_is_none(
    monkeypatch,
):
    monkeypatch.setattr("sweeps.fusion.anytime.REST_RATIO", 0)
    fusion, said = Fusion(), []
    anytime, lasting = running(fusion, said)
    with lasting:
        assert not fusion.done.acquire(timeout=0.1)
        for _ in range(3):
            anytime.trial_ended()
            assert fusion.done.acquire(timeout=WAIT_SECONDS)
    assert fusion.asked == 3
    assert said == []
    assert "fusion" not in [thread.name for thread in threading.enumerate()]


def test_what_goes_wrong_is_said_and_the_next_is_tried(monkeypatch):
    monkeypatch.setattr("sweeps.fusion.anytime.REST_RATIO", 0)
    fusion, said = Fusion(broken=1), []
    anytime, lasting = running(fusion, said)
    with lasting:
        for _ in range(2):
            anytime.trial_ended()
            assert fusion.done.acquire(timeout=WAIT_SECONDS)
    assert said == ["the trials so far could not be fused: OSError: no space left"]


def test_it_rests_so_many_times_as_long_as_it_fused():
    waited: list[float] = []

    class Over(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            return super().wait(0)

    class Slow(Fusion):
        def improve(self) -> bool:
            time.sleep(0.05)
            return super().improve()

    fusion, said = Slow(), []
    anytime, lasting = running(fusion, said)
    anytime._stopped = Over()
    with lasting:
        anytime.trial_ended()
        assert fusion.done.acquire(timeout=WAIT_SECONDS)
    assert waited[0] >= REST_RATIO * 0.05
