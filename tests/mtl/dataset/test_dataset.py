"""Dataset directory: written data is read back, and broken data raises an error that names it."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.dataset import Listing, feature_set, open_dataset, write_dataset
from mtl.dataset.feature_set import Moments
from mtl.errors import InputError

NAMES = ("b", "a", "d", "c", "e")
SPLITS = ("train", "train", "validation", "test", "test")
FRAMES = {"b": [1, 4, 9], "a": [2, 7], "d": [1, 3], "c": [5, 6, 8], "e": [2]}


def a_listing() -> Listing:
    rng = np.random.default_rng(0)
    frame = np.array([f for name in NAMES for f in FRAMES[name]], np.int32)
    video = np.repeat(np.arange(5), [len(FRAMES[n]) for n in NAMES]).astype(np.int32)
    values = rng.integers(0, 2, (len(frame), 15)).astype(np.float32)
    values[:, :2] = rng.uniform(-1, 1, (len(frame), 2))
    mask = rng.random((len(frame), 15)) < 0.6
    mask[video >= 3] = False
    values[~mask] = 0
    return Listing(NAMES, SPLITS, ("x", "y", "x", "z", "e"), video, frame, values, mask)


def blocks(dtype: str = "float32", width: int = 3, names: str = "abcd", frames: int = 10) -> list:
    """Return videos in name order, each with frames 1 to ``frames``; feature 1 is constant."""
    rng = np.random.default_rng(1)
    made = []
    for name in names:
        values = rng.integers(0, 200, (frames, width)).astype(dtype)
        values[:, 0] = 7
        made.append((name, np.arange(1, frames + 1), values))
    return made


def written(out: Path, **changes) -> object:
    arguments = {"listing": a_listing(), "features": {"s": blocks()}, "sources": {"from": "here"}}
    return write_dataset(out, **{**arguments, **changes})


def test_listing_is_read_back(tmp_path):
    listing = written(tmp_path / "d").listing()
    expected = a_listing()
    assert (listing.names, listing.splits, listing.subjects) == (NAMES, SPLITS, expected.subjects)
    for name in ("video", "frame", "values", "mask"):
        found, wanted = getattr(listing, name), getattr(expected, name)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    assert listing.split.tolist() == [0] * 5 + [1] * 2 + [2] * 4


def test_a_listing_read_without_labels_has_none(tmp_path):
    dataset = written(tmp_path / "d")
    whole, bare = dataset.listing(), dataset.listing(labels=False)
    assert bare.names == whole.names
    np.testing.assert_array_equal(bare.video, whole.video)
    np.testing.assert_array_equal(bare.frame, whole.frame)
    assert not bare.mask.any()
    assert (bare.values.shape, bare.values.dtype) == (whole.values.shape, whole.values.dtype)
    assert bare.values.strides == (0, 0), "missing labels take memory"


@pytest.mark.parametrize("rows", [slice(3, 8), np.array([0, 9, 10]), slice(0, 0)])
def test_take_keeps_only_the_videos_of_the_rows(rows):
    whole = a_listing()
    some = whole.take(rows)
    assert set(some.names) == {whole.names[v] for v in whole.video[rows]}
    assert [some.names[v] for v in some.video] == [whole.names[v] for v in whole.video[rows]]
    for name, split, subject in zip(some.names, some.splits, some.subjects, strict=True):
        place = whole.names.index(name)
        assert (split, subject) == (whole.splits[place], whole.subjects[place])
    for name in ("frame", "values", "mask"):
        np.testing.assert_array_equal(getattr(some, name), getattr(whole, name)[rows])


def test_labels_parquet_has_the_columns_and_nulls_of_the_format(tmp_path):
    written(tmp_path / "d")
    table = pq.read_table(tmp_path / "d" / "labels.parquet")
    types = [str(t) for t in table.schema.types]
    assert types == ["string", "int32", "float", "float", *["int8"] * 13]
    assert table["AU26"].is_valid().to_pylist() == a_listing().mask[:, 14].tolist()
    assert table["valence"].null_count == (~a_listing().mask[:, 0]).sum()


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_features_are_read_back_in_stored_precision(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(feature_set, "BATCH_ROWS", 7)
    monkeypatch.setattr(feature_set, "PART_BYTES", 60)
    dataset = written(tmp_path / "d", features={"s": blocks(dtype)})
    whole = np.concatenate([values for _, _, values in blocks(dtype)])
    assert len(list((tmp_path / "d/features/s").iterdir())) > 1
    for start, stop in [(0, 40), (0, 0), (3, 4), (6, 8), (5, 33), (39, 40)]:
        found = dataset.read("s", start, stop)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, whole[start:stop])
    with pytest.raises(IndexError):
        dataset.read("s", 30, 41)


def test_index_holds_the_first_row_of_each_video(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_set, "PART_BYTES", 60)
    index = written(tmp_path / "d").index("s")
    assert index.names == ("a", "b", "c", "d")
    assert index.starts.tolist() == [0, 10, 20, 30, 40]
    assert index.starts.dtype == np.int64
    np.testing.assert_array_equal(index.frames, np.tile(np.arange(1, 11, dtype=np.int32), 4))


def test_statistics_are_those_of_listed_training_frames(tmp_path):
    mean, std = written(tmp_path / "d").statistics("s")
    of = {name: values for name, _, values in blocks()}
    rows = np.concatenate([of[v][np.array(FRAMES[v]) - 1] for v in ("a", "b")])
    np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(std[1:], rows.std(0)[1:], rtol=1e-6)
    assert std[0] == 1
    assert mean.dtype == std.dtype == np.float32


def test_moments_of_blocks_equal_those_of_the_whole():
    values = np.random.default_rng(2).normal(1e4, 1e-2, (1000, 3))
    moments = Moments()
    for block in np.split(values, [1, 1, 300, 999]):
        moments.add(block)
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(moments.squares / moments.n), values.std(0), rtol=1e-6)


def test_dataset_json_counts(tmp_path):
    extra = [*blocks(), ("e2", np.arange(1, 4), np.zeros((3, 3), np.float32))]
    info = written(tmp_path / "d", features={"s": extra}, extra={"ceiling": 2.0}).info
    mask = a_listing().mask
    assert info["counts"]["train"]["videos"] == 2
    assert info["counts"]["train"]["frames"] == 5
    assert info["counts"]["train"]["labelled"]["valence"] == mask[:5, 0].sum()
    assert info["counts"]["validation"]["labelled"]["action_units"] == mask[5:7, 3:].any(1).sum()
    assert info["counts"]["test"]["labelled"]["expression"] == 0
    assert info["listed_without_features"] == {"s": {"train": 0, "validation": 0, "test": 1}}
    assert info["unlisted_feature_rows"] == {"s": 3}
    assert info["features"]["s"]["rows"] == 40
    assert info["extra"] == {"ceiling": 2.0}
    assert info["sources"] == {"from": "here"}


def test_hash_depends_on_content_only(tmp_path, monkeypatch):
    first = written(tmp_path / "1").hash
    monkeypatch.setattr(feature_set, "BATCH_ROWS", 7)
    monkeypatch.setattr(feature_set, "PART_BYTES", 60)
    assert written(tmp_path / "2", sources={"from": "there"}).hash == first
    other = blocks()
    other[0][2][0, 1] += 1
    listing = a_listing()
    mask = listing.mask.copy()
    mask[0, 0] ^= True
    changes = [
        {"features": {"s": other}},
        {"features": {"t": blocks()}},
        {"listing": replace(listing, mask=mask)},
        {"listing": replace(listing, subjects=NAMES)},
        {"image_name": "{frame}.png"},
    ]
    hashes = [written(tmp_path / f"x{i}", **change).hash for i, change in enumerate(changes)]
    assert len({first, *hashes}) == len(changes) + 1


def test_a_dataset_opens_by_uri_and_can_be_pickled(tmp_path):
    written(tmp_path / "d")
    dataset = pickle.loads(pickle.dumps(open_dataset(f"file://{tmp_path}/d/")))
    assert dataset.read("s", 0, 5).shape == (5, 3)
    assert dataset.width("s") == 3
    assert dataset.listing().names == NAMES


def test_an_interrupted_write_leaves_no_files(tmp_path):
    def broken():
        yield blocks()[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "d", features={"s": broken()})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_dataset_is_replaced_only_with_overwrite(tmp_path):
    first = written(tmp_path / "d")
    with pytest.raises(InputError, match=r"d already holds a dataset.*--overwrite"):
        written(tmp_path / "d")
    with pytest.raises(InputError, match="in name order"):
        written(tmp_path / "d", features={"s": blocks()[::-1]}, overwrite=True)
    assert open_dataset(tmp_path / "d").hash == first.hash
    second = written(tmp_path / "d", features={"t": blocks()}, overwrite=True)
    assert second.feature_sets() == ("t",)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]


def test_a_folder_that_is_no_dataset_is_never_replaced(tmp_path):
    (tmp_path / "d").mkdir()
    written(tmp_path / "d")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "dear.jpg").touch()
    with pytest.raises(InputError, match="photos exists and is no dataset"):
        written(tmp_path / "photos", overwrite=True)
    with pytest.raises(InputError, match=r"cannot write to s3://bucket/d: write to a local folder"):
        written("s3://bucket/d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits": ("train", "test", "validation", "test", "test")}, "in the order train"),
        ({"splits": ("train", "train", "valid", "test", "test")}, "video 'd' has split 'valid'"),
        ({"splits": ("train",) * 5}, "lists no validation frames"),
        ({"splits": ("validation",) * 2 + ("test",) * 3}, "lists no train frames"),
        ({"splits": ("train", *("validation",) * 4)}, r"one training video \('b'\)"),
        ({"names": ("b", "a", "a", "c", "e")}, "video 'a' is in two splits, train and validation"),
        ({"names": ("b", "b", "d", "c", "e")}, "video 'b' is twice in the train split"),
        ({"frame": np.full(11, 3, np.int32)}, "frame 3 of video 'b' is listed twice"),
    ],
)
def test_a_listing_that_cannot_be_trained_on_is_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path / "d", listing=replace(a_listing(), **changes))


def with_value(value: float) -> list:
    made = blocks()
    made[1][2][3, 2] = value
    return made


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({}, "at least one feature set"),
        ({"../s": blocks()}, r"feature set '../s': a name starts with"),
        ({"s": blocks()[::-1]}, "video 'c' comes after 'd'; videos must come once each"),
        ({"s": blocks()[:1] * 2}, "video 'a' comes after 'a'"),
        ({"s": blocks("float64")}, "video 'a': values are float64; use one of float16, float32"),
        ({"s": [*blocks(), *blocks(names="e", width=2)]}, "video 'e': 2 features .* but 3 of"),
        ({"s": [*blocks(), *blocks("uint8", names="e")]}, "features of uint8 .* of float32 before"),
        (
            {"s": [("a", np.array([1, 1]), np.zeros((2, 3), "f4"))]},
            "frame 1 comes after 1; frames must asc",
        ),
        (
            {"s": [("a", np.array([2, 1]), np.zeros((2, 3), "f4"))]},
            "frame 1 comes after 2; frames must asc",
        ),
        (
            {"s": [("a", np.array([1, 2]), np.zeros((3, 3), "f4"))]},
            r"2 frames come with .* shape \(3, 3\)",
        ),
        ({"s": [("a", np.array([1]), np.zeros((1, 0), "f4"))]}, r"shape \(1, 0\)"),
        ({"s": with_value(np.nan)}, "'s', video 'b', frame 4: feature 3 is nan"),
        ({"s": with_value(-np.inf)}, "'s', video 'b', frame 4: feature 3 is -inf"),
        ({"s": []}, "has none of the 11 listed frames"),
        ({"s": blocks(names="xyz")}, "has none of the 11 listed frames"),
        ({"s": blocks(names="cd")}, "has none of the listed training frames"),
    ],
)
def test_features_that_break_a_rule_are_refused(tmp_path, features, message):
    with pytest.raises(InputError, match=message):
        written(tmp_path / "d", features=features)
    assert list(tmp_path.iterdir()) == []


PART = "features/s/part-00000.parquet"


def cut(folder: Path) -> None:
    data = (folder / PART).read_bytes()
    (folder / PART).write_bytes(data[: len(data) // 2])


def cut_and_recorded(folder: Path) -> None:
    cut(folder)
    record_sizes(folder)


def record_sizes(folder: Path) -> None:
    info = json.loads((folder / "dataset.json").read_text())
    for entry in info["files"]:
        entry["bytes"] = (folder / entry["file"]).stat().st_size
    (folder / "dataset.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, rf"{PART} has \d+ bytes, but dataset.json records \d+ \(it is cut short"),
        (cut_and_recorded, rf"{PART} is cut short or damaged"),
        (lambda d: (d / "labels.parquet").unlink(), "labels.parquet is missing: copy it again"),
        (lambda d: (d / "dataset.json").unlink(), "is no dataset: it has no dataset.json"),
        (lambda d: (d / "dataset.json").write_text('{"form'), "cannot read .*dataset.json"),
        (lambda d: (d / "dataset.json").write_text("{}"), "has format None, this program reads 1"),
        (lambda d: (d / "dataset.json").write_text("[]"), "has format 'list'"),
    ],
)
def test_damaged_files_are_refused_on_opening(tmp_path, damage, message):
    written(tmp_path / "d")
    damage(tmp_path / "d")
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "d")


def rewrite(folder: Path, change) -> None:
    """Rewrite the feature file with a changed table and record its new size in the dataset."""
    table = pq.read_table(folder / PART)
    pq.write_table(change(table), folder / PART)
    record_sizes(folder)


def nan_in_row_13(table: pa.Table) -> pa.Table:
    rows = table["feature"].to_pylist()
    rows[12][1] = float("nan")
    return table.set_column(2, "feature", pa.array(rows, table["feature"].type))


def test_a_nan_in_stored_features_is_named(tmp_path):
    written(tmp_path / "d")
    rewrite(tmp_path / "d", nan_in_row_13)
    dataset = open_dataset(tmp_path / "d")
    with pytest.raises(InputError, match=rf"{PART} row 13: feature 2 of 3 is nan"):
        dataset.read("s", 0, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.take([*range(20), 21, 20, *range(22, 40)]), "row 22: rows must be sorted"),
        (lambda t: t.take([*range(20), 20, 20, *range(22, 40)]), "row 22: rows must be sorted"),
        (lambda t: t.take([*range(30, 40), *range(30)]), "row 11: rows must be sorted"),
    ],
)
def test_stored_rows_out_of_order_are_named(tmp_path, change, message):
    written(tmp_path / "d")
    rewrite(tmp_path / "d", change)
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / "d").index("s")


def test_stored_features_of_another_size_are_refused(tmp_path):
    written(tmp_path / "d")
    rewrite(tmp_path / "d", lambda t: t.slice(0, 30))
    with pytest.raises(
        InputError, match=r"holds 30 rows of 3 x float32, but dataset.json records 40"
    ):
        open_dataset(tmp_path / "d")


def test_a_label_of_an_unknown_video_is_named(tmp_path):
    written(tmp_path / "d")
    path = tmp_path / "d" / "videos.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    record_sizes(tmp_path / "d")
    with pytest.raises(InputError, match=r"labels.parquet row 1: video 'b' is not in videos"):
        open_dataset(tmp_path / "d").listing()


def test_an_unknown_feature_set_error_lists_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="has no feature set 'x': it has s"):
        written(tmp_path / "d").width("x")


def test_a_dataset_may_hold_test_frames_only(tmp_path):
    listing = Listing.unlabelled(
        ("a", "b"),
        ("test", "test"),
        ("a", "b"),
        np.repeat(np.int32([0, 1]), 3),
        np.tile(np.int32([1, 2, 3]), 2),
    )
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    blocks = [(name, np.int32([1, 2, 3]), rows) for name in ("a", "b")]
    dataset = write_dataset(tmp_path / "data", listing, {"own": blocks}, sources={})
    assert dataset.listing().names == ("a", "b")
    np.testing.assert_array_equal(dataset.read("own", 0, 3), rows)
    assert dataset.width("own") == 2
    assert all(np.isnan(numbers).tolist() == [True, True] for numbers in dataset.statistics("own"))
