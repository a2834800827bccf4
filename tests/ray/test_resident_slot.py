"""A slot reads features once, without a copy, and trains one trial after another."""

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from mtl.dataset import Dataset, Listing, write_dataset
from sweeps.cluster.connection import connect
from sweeps.planning.compose import compose
from sweeps.planning.plan import divide
from sweeps.records.messages import End, Epoch, Job
from sweeps.search_file import ResourcesSection
from tests.support.small_sweeps import START_SECONDS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WIDTH = 1024
FRAMES = 2000
SPLITS = ("train",) * 5 + ("validation",) * 2 + ("test",)
NAMES = tuple(f"v{number}" for number in range(len(SPLITS)))
FEATURE_BYTES = len(NAMES) * FRAMES * WIDTH * 2
"""32 MB, to stand out from what a process allocates anyway."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    random = np.random.default_rng(0)
    frames = np.arange(1, FRAMES + 1, dtype=np.int32)
    features = random.normal(size=(FRAMES, WIDTH)).astype(np.float16)
    rows = len(NAMES) * FRAMES
    video = np.repeat(np.arange(len(NAMES), dtype=np.int32), FRAMES)
    values = np.zeros((rows, 15), np.float32)
    values[:, :2] = random.uniform(-1, 1, (rows, 2))
    mask = np.zeros((rows, 15), bool)
    mask[:, :2] = (video < 7)[:, None]
    listing = Listing(NAMES, SPLITS, NAMES, video, np.tile(frames, len(NAMES)), values, mask)
    blocks = [(name, frames, features) for name in NAMES]
    out = tmp_path_factory.mktemp("wide") / "data"
    return write_dataset(out, listing, {"appearance": blocks}, sources={})


def a_job(name: str, *overrides: str) -> Job:
    small = ("encoder.hidden=8", "head=linear", "training.epochs=1")
    return Job(name, compose([*small, *overrides]).plain())


def train(slot: Any, job: Job) -> list[Epoch | End]:
    import ray

    stream = slot.train.options(name=job.name, num_returns="streaming").remote(job)
    return [ray.get(reference) for reference in stream]


def inside(slot: Any, look: Any) -> Any:
    """What ``look`` says of the slot, asked in its own process."""
    import ray

    return ray.get(slot.__ray_call__.remote(look), timeout=START_SECONDS)


def own_bytes(slot: Any) -> int:
    """Memory that only the slot's process has: what it maps of the object store is not."""
    pid = inside(slot, lambda self: __import__("os").getpid())
    return int(psutil.Process(pid).memory_full_info().uss)


def test_features_are_mapped_not_copied_and_their_files_are_not_read_again(wide, ray_address):
    with connect(ray_address):
        import ray

        from sweeps.data.sharding import make_shards
        from sweeps.slots.setup import SlotSetup
        from sweeps.slots.start import slot_starter

        listing = wide.listing()
        shards = make_shards(wide, ["appearance"], listing)
        Path(wide.address, "features").rename(Path(wide.address, "gone"))
        setup = SlotSetup(shards, listing, divide(listing, 0.5, 0), threads=1)
        slot = slot_starter("wide", ResourcesSection())(0)
        ray.get(slot.ready.remote([ray.put(setup)]), timeout=START_SECONDS)
        empty = own_bytes(slot)
        blocks = inside(
            slot,
            lambda self: [
                (block.flags.writeable, block.flags.owndata, block.nbytes)
                for block in self._data.table("appearance").blocks
            ],
        )
        assert {(writeable, own) for writeable, own, _ in blocks} == {(False, False)}
        assert sum(size for *_, size in blocks) == FEATURE_BYTES
        assert own_bytes(slot) - empty < FEATURE_BYTES / 4

        first = train(slot, a_job("one", "encoder=lstm"))
        between = own_bytes(slot)
        second = train(slot, a_job("two", "encoder=gru"))
        assert own_bytes(slot) - between < FEATURE_BYTES / 4
        for epoch, end in (first, second):
            assert isinstance(epoch, Epoch)
            assert isinstance(end, End)
            assert end.state == "complete"
            assert len(end.rows) == 3 * FRAMES
