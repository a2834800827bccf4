"""Reading of feature files: equal videos for all accepted forms, errors that name file and row."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.dataset import parquet, read_features
from mtl.errors import InputError

WIDTH = 3
VIDEOS = [name for name, n in (("a", 4), ("b", 1), ("c", 6)) for _ in range(n)]
FRAMES = [1, 2, 5, 9, 3, 1, 2, 3, 4, 7, 8]
VALUES = np.random.default_rng(0).integers(0, 99, (11, WIDTH)).astype(np.float32)


def feature(values: np.ndarray = VALUES, dtype: pa.DataType | None = None) -> pa.Array:
    return pa.array(values.tolist(), dtype or pa.list_(pa.float32(), WIDTH))


def table(**columns) -> pa.Table:
    made = {"video": pa.array(VIDEOS), "frame": pa.array(FRAMES, pa.int32()), "feature": feature()}
    return pa.table({**made, **columns})


def saved(path: Path, made: pa.Table | None = None, **options) -> Path:
    pq.write_table(made if made is not None else table(), path, **options)
    return path


def check(address: Path, dtype: str = "float32") -> None:
    """Assert that the source reads as ``VIDEOS``, ``FRAMES`` and ``VALUES``."""
    found = list(read_features(address))
    assert [name for name, _, _ in found] == ["a", "b", "c"]
    assert np.concatenate([frames for _, frames, _ in found]).tolist() == FRAMES
    values = np.concatenate([values for _, _, values in found])
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, VALUES.astype(dtype))


@pytest.mark.parametrize(
    "column",
    [
        pa.array(VIDEOS).dictionary_encode(),
        pa.array(VIDEOS, pa.large_string()),
        pa.array(VIDEOS, pa.large_string()).dictionary_encode(),
        pa.chunked_array([VIDEOS[:5], VIDEOS[5:]]),
    ],
    ids=str,
)
def test_accepted_video_columns(tmp_path, column):
    check(saved(tmp_path / "f.parquet", table(video=column)))


@pytest.mark.parametrize("dtype", [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()], ids=str)
def test_accepted_frame_columns(tmp_path, dtype):
    check(saved(tmp_path / "f.parquet", table(frame=pa.array(FRAMES, dtype))))


@pytest.mark.parametrize(
    ("dtype", "read_as"),
    [
        (pa.list_(pa.float16(), WIDTH), "float16"),
        (pa.list_(pa.uint8(), WIDTH), "uint8"),
        (pa.list_(pa.float64(), WIDTH), "float32"),
        (pa.list_(pa.float32()), "float32"),
        (pa.large_list(pa.float64()), "float32"),
    ],
    ids=str,
)
def test_accepted_feature_columns(tmp_path, dtype, read_as):
    values = VALUES.astype(np.uint8) if "uint8" in str(dtype) else VALUES
    check(saved(tmp_path / "f.parquet", table(feature=feature(values, dtype))), read_as)


@pytest.mark.parametrize("batch_rows", [2, 3, 8192])
@pytest.mark.parametrize("shuffled", [False, True])
def test_part_files_in_any_order(tmp_path, monkeypatch, batch_rows, shuffled):
    monkeypatch.setattr(parquet, "BATCH_ROWS", batch_rows)
    order = np.random.default_rng(1).permutation(11) if shuffled else np.arange(11)
    rows = table().take(order)
    (tmp_path / "parts").mkdir()
    for i, (a, b) in enumerate([(0, 2), (2, 2), (2, 7), (7, 11)]):
        saved(tmp_path / "parts" / f"{i}.parquet", rows.slice(a, b - a), row_group_size=3)
    (tmp_path / "parts" / "_SUCCESS").touch()
    check(tmp_path / "parts")
    check(f"file://{tmp_path}/parts")


def test_an_empty_file_holds_no_videos(tmp_path):
    assert list(read_features(saved(tmp_path / "f.parquet", table().slice(0, 0)))) == []


def with_value(value: float | None, dtype: pa.DataType | None = None) -> pa.Array:
    rows = VALUES.tolist()
    rows[8][1] = value
    return pa.array(rows, dtype or pa.list_(pa.float32(), WIDTH))


def ragged() -> pa.Array:
    rows = VALUES.tolist()
    rows[6] = rows[6][:2]
    return pa.array(rows, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (table().drop(["frame"]), "must have one column 'frame' but has the columns video, feat"),
        (table(video=pa.array(FRAMES)), "column 'video' is int64; it must be string"),
        (table(frame=pa.array(VIDEOS)), "column 'frame' is string; it must be int32"),
        (table(frame=pa.array(FRAMES, pa.float64())), "column 'frame' is double"),
        (table(feature=pa.array(FRAMES)), "column 'feature' is int64; it must be a fixed-size"),
        (table(feature=feature(dtype=pa.list_(pa.int64()))), "column 'feature' is list"),
        (table(feature=ragged()), "row 7: the feature has length 2, but the rows before have 3"),
        (table(feature=pa.array([[]] * 11, pa.list_(pa.float32()))), "row 1: the feature is empty"),
        (table(feature=with_value(np.nan)), "row 9: feature 2 of 3 is nan; every feature must"),
        (table(feature=with_value(-np.inf)), "row 9: feature 2 of 3 is -inf"),
        (table(feature=with_value(1e300, pa.list_(pa.float64()))), "row 9: feature 2 of 3 is inf"),
        (table(feature=with_value(None)), "row 9: the feature holds a null"),
        (table(video=pa.array([*VIDEOS[:10], None])), "row 11: video is null"),
        (table(frame=pa.array([None, *FRAMES[1:]])), "row 1: frame is null"),
        (table(frame=pa.array([*FRAMES[:10], -1])), "row 11: frame is -1; it must be between 0"),
        (table(frame=pa.array([*FRAMES[:10], 2**31])), "row 11: frame is 2147483648"),
        (
            table(frame=pa.array([*FRAMES[:9], 1, 8])),
            "row 10: frame 1 of video 'c' is already in .*f.parquet row 6; keep one of the rows",
        ),
        (
            table().take([10, *range(10), 3]),
            "row 12: frame 9 of video 'a' is already in .*f.parquet row 5",
        ),
    ],
)
def test_errors_name_the_file_and_row(tmp_path, made, message):
    with pytest.raises(InputError, match=message):
        list(read_features(saved(tmp_path / "f.parquet", made)))


def test_a_null_feature_is_named(tmp_path):
    rows = pa.array([*VALUES.tolist()[:10], None], pa.list_(pa.float32(), WIDTH))
    with pytest.raises(InputError, match=r"f.parquet row 11: feature is null"):
        list(read_features(saved(tmp_path / "f.parquet", table(feature=rows))))


def test_errors_count_rows_within_one_part_file(tmp_path):
    saved(tmp_path / "0.parquet")
    saved(tmp_path / "1.parquet", table().slice(3, 1))
    with pytest.raises(InputError, match=r"1.parquet row 1: frame 9 .* in .*0.parquet row 4"):
        list(read_features(tmp_path))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (VALUES[:, :2], "1.parquet holds 2 features of float32 per row but .*0.parquet 3 of fl"),
        (VALUES.astype(np.float16), "1.parquet holds 3 features of float16 per row"),
    ],
)
def test_part_files_of_different_type_or_width_are_refused(tmp_path, other, message):
    dtype = pa.list_(pa.from_numpy_dtype(other.dtype), other.shape[1])
    saved(tmp_path / "0.parquet")
    saved(tmp_path / "1.parquet", table(feature=feature(other, dtype)))
    with pytest.raises(InputError, match=message):
        read_features(tmp_path)


def cut(path: Path) -> Path:
    data = saved(path).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def damaged_inside(path: Path) -> Path:
    data = bytearray(saved(path, compression="zstd").read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    return path


def some_text(path: Path) -> Path:
    path.write_text("video,frame,feature\na,1,0\n" * 9)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cut, "f.parquet is cut short or damaged: copy or make it again"),
        (damaged_inside, "f.parquet is cut short or damaged"),
        (some_text, "f.parquet is no Parquet file: give a file with the columns video"),
        (lambda p: p, "f.parquet does not exist"),
        (lambda p: p.mkdir() or p, "f.parquet holds no Parquet files"),
        (lambda p: p.touch() or p, "f.parquet is no Parquet file"),
    ],
)
def test_unreadable_feature_files_are_refused(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        list(read_features(make(tmp_path / "f.parquet")))


def hdf5(path: Path, **datasets: np.ndarray) -> Path:
    """Write videos a, b and c; keyword ``a_feature`` replaces ``a/feature``, None omits it."""
    made: dict[str, np.ndarray | None] = {}
    for name in "cab":
        rows = [i for i, video in enumerate(VIDEOS) if video == name]
        made |= {f"{name}/feature": VALUES[rows], f"{name}/frame": np.array(FRAMES)[rows]}
    made |= {key.replace("_", "/"): value for key, value in datasets.items()}
    with h5py.File(path, "w") as file:
        for key, value in made.items():
            if value is not None:
                file[key] = value
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8"])
def test_hdf5_is_read(tmp_path, dtype):
    values = {f"{n}_feature": VALUES[[v == n for v in VIDEOS]].astype(dtype) for n in "abc"}
    check(hdf5(tmp_path / "f.h5", **values), dtype.replace("64", "32"))
    check(hdf5(tmp_path / "f", **values), dtype.replace("64", "32"))


def test_frames_out_of_order_are_sorted_with_their_rows(tmp_path):
    path = hdf5(tmp_path / "f.h5", a_feature=VALUES[3::-1], a_frame=np.array([9.0, 5, 2, 1]))
    check(path)


def test_without_frame_numbers_rows_are_counted_from_1(tmp_path):
    path = hdf5(tmp_path / "f.h5", a_frame=None)
    assert next(iter(read_features(path)))[1].tolist() == [1, 2, 3, 4]


def with_nan() -> np.ndarray:
    values = VALUES[:4].copy()
    values[2, 0] = np.nan
    return values


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({"a_feature": with_nan()}, "f.h5 a/feature row 3: feature 1 is nan"),
        ({"a_feature": VALUES[:4, 0]}, r"f.h5 a/feature has shape \(4,\)"),
        ({"a_feature": VALUES[:4].astype(int)}, "f.h5 a/feature holds int64: it must be float16"),
        ({"a_frame": np.array([1, 2, 3])}, "f.h5 a/frame has 3 rows but .*a/feature has 4"),
        ({"a_frame": np.array([1, 2, 2, 3])}, "f.h5 a/frame holds frame 2 twice"),
        ({"a_frame": np.array([1, 2, 2.5, 3])}, "f.h5 a/frame row 3 is 2.5"),
        ({"a_frame": np.array([1, -2, 2, 3])}, "f.h5 a/frame row 2 is -2"),
        ({"a_frame": np.array([b"a"] * 4)}, "f.h5 a/frame holds .S1: it must be int32"),
        ({f"{n}_feature": None for n in "abc"}, "f.h5 holds no '<video>/feature'"),
    ],
)
def test_hdf5_that_breaks_a_rule_is_refused(tmp_path, datasets, message):
    with pytest.raises(InputError, match=message):
        list(read_features(hdf5(tmp_path / "f.h5", **datasets)))


def test_truncated_hdf5_is_refused(tmp_path):
    path = hdf5(tmp_path / "f.h5")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"f.h5 cannot be read as HDF5"):
        read_features(path)


def test_hdf5_without_h5py_names_the_extra(tmp_path, monkeypatch):
    path = hdf5(tmp_path / "f.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(InputError, match=r"pip install 'mtl-sweeps\[hdf5\]'"):
        read_features(path)


def test_sorted_files_are_streamed(tmp_path):
    """Reading allocates a few batches of 8192 rows (4 MiB each), not the whole file (32 MiB)."""
    rows, width = 256, 128
    values = pa.FixedSizeListArray.from_arrays(
        pa.array(np.random.default_rng(0).random(rows * width, np.float32)), width
    )
    frame = pa.array(np.arange(rows), pa.int32())
    columns = [
        pa.table({"video": [f"v{i:03d}"] * rows, "frame": frame, "feature": values})
        for i in range(256)
    ]
    saved(tmp_path / "f.parquet", pa.concat_tables(columns), row_group_size=rows)
    del columns
    before, most = pa.total_allocated_bytes(), 0
    for _ in read_features(tmp_path / "f.parquet"):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 20 << 20
