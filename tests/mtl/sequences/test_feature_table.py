"""Reading of some videos of a feature set into memory."""

import numpy as np
import pytest

from mtl.dataset import Dataset, Listing, write_dataset
from mtl.sequences import feature_table
from mtl.sequences.feature_table import index_table, read_table

NAMES = tuple(f"v{number}" for number in range(8))
FRAMES = np.arange(1, 21, dtype=np.int32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Dataset of 8 videos with 20 frames, every second one listed; features are (video, frame)."""
    frame = np.tile(FRAMES[::2], len(NAMES))
    video = np.repeat(np.arange(len(NAMES), dtype=np.int32), 10)
    splits = ("train",) * 6 + ("validation",) * 2
    listing = Listing.unlabelled(NAMES, splits, NAMES, video, frame)
    blocks = [
        (name, FRAMES, np.stack([np.full(20, i), FRAMES], axis=1).astype(np.float16))
        for i, name in enumerate(NAMES)
    ]
    folder = tmp_path_factory.mktemp("tables") / "data"
    return write_dataset(folder, listing, {"set": blocks}, sources={})


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("gap", [0, 20, 8192])
@pytest.mark.parametrize("videos", [("v0", "v2", "v3", "v7"), ("v5",), NAMES, ()])
def test_only_wanted_videos_are_kept(
    data: Dataset,
    monkeypatch: pytest.MonkeyPatch,
    videos: tuple[str, ...],
    gap: int,
    listed: bool,
) -> None:
    monkeypatch.setattr(feature_table, "MAX_GAP_ROWS", gap)
    index = data.index("set")
    found = read_table(data, "set", data.listing() if listed else None, set(videos), index)
    frames = FRAMES[::2] if listed else FRAMES
    assert set(found.rows) == set(found.frames) == set(videos)
    for name in videos:
        block, first = found.rows[name]
        rows = found.blocks[block][first : first + len(frames)]
        np.testing.assert_array_equal(found.frames[name], frames)
        np.testing.assert_array_equal(rows[:, 0], NAMES.index(name))
        np.testing.assert_array_equal(rows[:, 1], frames)
    assert sum(map(len, found.blocks)) == len(frames) * len(videos)


def test_distant_videos_are_read_separately(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[tuple[int, int]] = []
    read = Dataset.read

    def recorded(self: Dataset, name: str, start: int, stop: int) -> np.ndarray:
        reads.append((start, stop))
        return read(self, name, start, stop)

    monkeypatch.setattr(Dataset, "read", recorded)
    monkeypatch.setattr(feature_table, "MAX_GAP_ROWS", 20)
    read_table(data, "set", None, {"v0", "v2", "v6"})
    assert reads == [(0, 60), (120, 140)]


def test_index_table_has_the_frames_of_the_whole_table(data: Dataset) -> None:
    whole, bare = read_table(data, "set", None), index_table("set", data.index("set"))
    assert bare.frames.keys() == whole.frames.keys()
    for name, frames in whole.frames.items():
        np.testing.assert_array_equal(bare.frames[name], frames)
