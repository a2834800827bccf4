"""Predictions are read back bit-identical, and labels are decided as in the metrics."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mtl.errors import InputError
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions, decide, outputs_of
from mtl.tasks import OUTPUT_COLUMNS


def predictions(frames: int = 50) -> Predictions:
    random = np.random.default_rng(0)
    outputs = random.random((frames, 22)).astype(np.float32)
    outputs[:, 1] = np.nan
    video = random.choice([3, 1, 4], frames).astype(np.int32)
    names = ("b", "a", "unused", "ü 1", "c/d")
    return Predictions(video, np.arange(frames, dtype=np.int32) * 7, names, outputs)


@pytest.mark.parametrize("frames", [0, 1, 50])
def test_save_then_load_is_the_identity(tmp_path: Path, frames: int) -> None:
    saved = predictions(frames)
    saved.save(tmp_path / "predictions.parquet")
    loaded = Predictions.load(tmp_path / "predictions.parquet")
    assert loaded.names == saved.names
    for name in ("video", "frame", "outputs"):
        before, after = getattr(saved, name), getattr(loaded, name)
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(after, before)
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]


def test_columns_of_the_file(tmp_path: Path) -> None:
    saved = predictions()
    saved.save(tmp_path / "predictions.parquet")
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.column_names == ["video", "frame", *OUTPUT_COLUMNS]
    assert pa.types.is_dictionary(table.schema.field("video").type)
    assert table["video"].to_pylist() == [saved.names[index] for index in saved.video]
    assert {str(table.schema.field(name).type) for name in OUTPUT_COLUMNS} == {"float"}


@pytest.mark.parametrize("kind", ["missing", "cut", "other"])
def test_a_file_without_predictions_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "predictions.parquet"
    if kind == "cut":
        predictions().save(path)
        path.write_bytes(path.read_bytes()[:1000])
    if kind == "other":
        pq.write_table(pa.table({"video": ["a"], "frame": [1]}), path)
    with pytest.raises(InputError, match=r"predictions\.parquet holds no predictions"):
        Predictions.load(path)


def test_decide_clips_values_takes_the_most_probable_and_thresholds_at_one_half() -> None:
    outputs = np.zeros((3, 22), np.float32)
    outputs[:, 0], outputs[:, 1] = [-1.5, 0.25, 2.0], [1.0, -1.0, 0.5]
    outputs[[0, 1, 2], [2 + 7, 2 + 3, 2 + 0]] = 0.6
    outputs[:, 10] = [0.49, 0.5, 0.51]
    values, mask = decide(outputs)
    np.testing.assert_array_equal(values[:, 0], [-1, 0.25, 1])
    np.testing.assert_array_equal(values[:, 1], [1, -1, 0.5])
    np.testing.assert_array_equal(values[:, 2], [7, 3, 0])
    np.testing.assert_array_equal(values[:, 3], [0, 1, 1])
    assert not values[:, 4:].any()
    assert mask.all()


def test_decide_gives_no_label_where_outputs_are_nan() -> None:
    outputs = np.full((2, 22), 0.7, np.float32)
    outputs[:, 1], outputs[0, 2:10], outputs[:, 12] = np.nan, np.nan, np.nan
    values, mask = decide(outputs)
    expected = np.ones((2, 15), bool)
    expected[:, 1], expected[0, 2], expected[:, 5] = False, False, False
    np.testing.assert_array_equal(mask, expected)
    assert not values[~mask].any()


def test_outputs_of_inverts_decide() -> None:
    outputs = np.random.default_rng(0).random((100, 22)).astype(np.float32)
    outputs[::3, 0], outputs[::4, 2:10], outputs[1::2, 12] = np.nan, np.nan, np.nan
    values, mask = decide(outputs)
    again_values, again_mask = decide(outputs_of(values, mask))
    np.testing.assert_array_equal(again_values, values)
    np.testing.assert_array_equal(again_mask, mask)


def test_decided_labels_score_as_the_outputs_they_were_decided_from() -> None:
    random = np.random.default_rng(0)
    outputs = random.random((300, 22)).astype(np.float32)
    labels = np.zeros((300, 15), np.float32)
    labels[:, :2] = random.uniform(-1, 1, (300, 2))
    labels[:, 2], labels[:, 3:] = random.integers(0, 8, 300), random.random((300, 12)) < 0.4
    known = random.random((300, 15)) < 0.5
    decided = outputs_of(*decide(outputs))
    assert scores(decided, labels, known) == scores(outputs, labels, known)
