"""Test of a slot of one process that trains two trials on features read once without a copy."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ray import cloudpickle

from mtl.dataset import Dataset, Listing, write_dataset
from mtl.sequences.feature_table import FeatureTable
from sweeps.cluster.connection import connect
from sweeps.data.trial_data import FeatureLoader
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
"""Size of all features, 32 MB: far more than a process allocates for other data."""


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


def small_job(name: str, *overrides: str) -> Job:
    small = ("encoder.hidden=8", "head=linear", "training.epochs=1")
    return Job(name, compose([*small, *overrides]).plain())


def train(slot: Any, job: Job) -> list[Epoch | End]:
    import ray

    stream = slot.train.options(name=job.name, num_returns="streaming").remote(job)
    return [ray.get(reference) for reference in stream]


def unshared_bytes(pid: int | None = None) -> int:
    """Return the memory of a process that is not shared, so without Ray's object store."""
    return int(psutil.Process(pid).memory_full_info().uss)


@dataclass(frozen=True)
class Watched:
    """Feature loader that writes one line per load to a file: its arrays and its memory."""

    shards: FeatureLoader
    record: Path

    def load(self, name: str) -> FeatureTable:
        """Load a feature set."""
        before = unshared_bytes()
        table = self.shards.load(name)
        blocks = [(b.flags.writeable, b.flags.owndata, b.nbytes) for b in table.blocks]
        line = {"pid": os.getpid(), "blocks": blocks, "own_bytes": unshared_bytes() - before}
        with self.record.open("a") as file:
            file.write(json.dumps(line) + "\n")
        return table


# A slot cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def slot_bytes(record: Path) -> int:
    """Return the memory of the slot that loaded the features, without shared memory."""
    return unshared_bytes(json.loads(record.read_text())["pid"])


def test_features_are_mapped_without_a_copy_and_their_files_are_read_once(
    wide, ray_address, tmp_path
):
    with connect(ray_address):
        import ray

        from sweeps.data.sharding import make_shards
        from sweeps.slots.setup import SlotSetup
        from sweeps.slots.start import slot_starter

        listing = wide.listing()
        shards = make_shards(wide, ["appearance"], listing)
        Path(wide.address, "features").rename(Path(wide.address, "gone"))
        watched: Any = Watched(shards, tmp_path / "loads.jsonl")
        setup = SlotSetup(watched, listing, divide(listing, 0.5, 0), threads=1)
        slot = slot_starter("wide", ResourcesSection())(0)
        ray.get(slot.ready.remote([ray.put(setup)]), timeout=START_SECONDS)
        first = train(slot, small_job("one", "encoder=lstm"))
        between = slot_bytes(watched.record)
        second = train(slot, small_job("two", "encoder=gru"))
        assert slot_bytes(watched.record) - between < FEATURE_BYTES / 4
        (load,) = map(json.loads, watched.record.read_text().splitlines())
        assert {(writeable, own) for writeable, own, _ in load["blocks"]} == {(False, False)}
        assert sum(size for *_, size in load["blocks"]) == FEATURE_BYTES
        assert load["own_bytes"] < FEATURE_BYTES / 4
        for epoch, end in (first, second):
            assert isinstance(epoch, Epoch)
            assert isinstance(end, End)
            assert end.state == "complete"
            assert len(end.rows) == 3 * FRAMES
