"""Tests of the fusion during the search: it follows each trial's end and never stops the search."""

import threading
import time
from typing import Any

from sweeps.fusion.anytime import REST_RATIO, AnytimeFusion

WAIT_SECONDS = 10.0


class Fusion:
    """Fusion that counts its calls and raises an error in the first ``broken`` ones."""

    def __init__(self, broken: int = 0) -> None:
        self.calls, self.broken = 0, broken
        self.done = threading.Semaphore(0)

    def improve(self) -> bool:
        self.calls += 1
        self.done.release()
        if self.calls <= self.broken:
            raise OSError("no space left")
        return True


def running(fusion: Any, messages: list[str]) -> tuple[AnytimeFusion, Any]:
    anytime = AnytimeFusion(fusion)
    return anytime, anytime.running(messages.append)


def test_only_an_ended_trial_is_followed_by_a_fusion(
    monkeypatch,
):
    monkeypatch.setattr("sweeps.fusion.anytime.REST_RATIO", 0)
    fusion, messages = Fusion(), []
    anytime, context = running(fusion, messages)
    with context:
        assert not fusion.done.acquire(timeout=0.1)
        for _ in range(3):
            anytime.results_changed()
            assert fusion.done.acquire(timeout=WAIT_SECONDS)
    assert fusion.calls == 3
    assert messages == []
    assert "fusion" not in [thread.name for thread in threading.enumerate()]


def test_an_error_is_reported_and_the_next_fusion_is_tried(monkeypatch):
    monkeypatch.setattr("sweeps.fusion.anytime.REST_RATIO", 0)
    fusion, messages = Fusion(broken=1), []
    anytime, context = running(fusion, messages)
    with context:
        for _ in range(2):
            anytime.results_changed()
            assert fusion.done.acquire(timeout=WAIT_SECONDS)
    assert messages == ["the trials so far could not be fused: OSError: no space left"]


def test_the_pause_is_proportional_to_the_fusions_time():
    starts: list[float] = []
    ends: list[float] = []

    class Slow(Fusion):
        def improve(self) -> bool:
            starts.append(time.monotonic())
            time.sleep(0.05)
            ends.append(time.monotonic())
            return super().improve()

    fusion, messages = Slow(), []
    anytime, context = running(fusion, messages)
    with context:
        for _ in range(2):
            anytime.results_changed()
            assert fusion.done.acquire(timeout=WAIT_SECONDS)
    assert starts[1] - ends[0] >= REST_RATIO * (ends[0] - starts[0])
