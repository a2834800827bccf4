"""Tests that an ensemble's outputs are the fused and post-processed outputs of its trials."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mtl.dataset import Dataset
from mtl.ensemble import Ensemble, Source, parse_export
from mtl.ensemble import model as module
from mtl.ensemble.spans import video_spans
from mtl.errors import InputError
from mtl.predictions.table import Predictions
from mtl.sequences.join import training_prior
from mtl.tasks import TASKS
from mtl.training import inference
from mtl.whole_files import write_folder
from tests.support import ensemble_zoo as zoo
from tests.support.laws import TOLERANCE


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return zoo.dataset(tmp_path_factory.mktemp("ensemble") / "data")


@pytest.fixture(scope="module")
def trained(data: Dataset) -> dict[str, zoo.Trained]:
    return {name: zoo.train(data, name) for name in zoo.SETTINGS}


@pytest.fixture(scope="module")
def ensemble(data: Dataset, trained: dict[str, zoo.Trained]) -> Ensemble:
    return Ensemble(parse_export(zoo.export_files(data, trained), "export"), "cpu")


def by_frame(predictions: Predictions) -> dict[tuple[str, int], np.ndarray]:
    keys = zip(predictions.video.tolist(), predictions.frame.tolist(), strict=True)
    names = predictions.names
    return {(names[v], f): row for (v, f), row in zip(keys, predictions.outputs, strict=True)}


def near(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_the_test_data_lack_features_of_some_frames(data: Dataset, ensemble: Ensemble) -> None:
    source = Source.open(ensemble.export, data)
    both, face, turned = source.describe_missing_features(ensemble.export)
    assert "pose+face" in both
    assert "face+pose" in turned
    counts = [int(n) for n in both.split() if n.isdecimal()]
    assert len(counts) == 2
    assert min(counts) > 0
    assert "0 are predicted from their video's nearest frame" in face
    epochs = [len(m.weights) for m in ensemble.export.members.values()]
    assert max(epochs) > 1, "no member needs weights of two epochs"


def test_a_member_s_outputs_are_those_of_its_trial(
    data: Dataset, trained: dict[str, zoo.Trained], ensemble: Ensemble
) -> None:
    source = Source.open(ensemble.export, data)
    found = dict(ensemble.member_outputs(*source.read(slice(0, len(source.frame)))))
    assert found.keys() == zoo.COUNTS.keys()
    for name, outputs in found.items():
        for task in TASKS.values():
            own = outputs[:, task.outputs]
            if task.name in zoo.COUNTS[name]:
                near(own, trained[name].outputs[:, task.outputs])
            else:
                assert np.isnan(own).all()


def test_every_listed_frame_has_the_members_mean(
    data: Dataset, trained: dict[str, zoo.Trained], ensemble: Ensemble
) -> None:
    known = data.listing()
    raw, done = ensemble.predict(data, raw=True), ensemble.predict(data)
    for predictions in (raw, done):
        assert predictions.names == known.names
        assert np.array_equal(predictions.video, known.video)
        assert np.array_equal(predictions.frame, known.frame)
    near(raw.outputs, zoo.fused(trained))
    near(done.outputs, zoo.DONE(zoo.fused(trained), known.video, known.frame))
    assert np.abs(done.outputs - raw.outputs).max() > 0.05
    prior = by_frame(raw)[zoo.WITHOUT_ANY, int(known.frame[known.video == 8][0])]
    near(prior, training_prior(known))


@pytest.mark.parametrize("span_bytes", [1, 6000, 2**30])
def test_outputs_do_not_depend_on_spans(data: Dataset, ensemble: Ensemble, span_bytes: int) -> None:
    """Smoothed outputs are the same too, because a span has whole videos."""
    source = Source.open(ensemble.export, data)
    spans = source.spans(span_bytes)
    assert len(spans) in {1: range(10, 11), 6000: range(3, 9), 2**30: range(1, 2)}[span_bytes]
    near(ensemble.predict(data, span_bytes=span_bytes).outputs, ensemble.predict(data).outputs)


def test_a_table_may_hold_other_videos(data: Dataset, ensemble: Ensemble) -> None:
    source = Source.open(ensemble.export, data)
    _, tables = source.read(slice(0, len(source.frame)))
    (span, *_) = source.spans(1)
    listing, _ = source.read(span)
    near(ensemble.outputs(listing, tables), ensemble.predict(data).outputs[span])


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_one_split(data: Dataset, ensemble: Ensemble, split: str) -> None:
    source = Source.open(ensemble.export, data, split)
    outputs = ensemble.outputs(*source.read(slice(0, len(source.frame))))
    known = data.listing()
    rows = np.isin(np.array(known.splits)[known.video], [split])
    near(outputs, ensemble.predict(data).outputs[rows])
    assert set(source.splits) == {split}


def test_statistics_and_prior_are_those_of_the_training_data(
    data: Dataset, ensemble: Ensemble, tmp_path: Path
) -> None:
    """The other dataset has the same videos, no labels, and other training videos."""
    other = zoo.dataset(tmp_path / "other", zoo.listing(labels=False, splits=zoo.SPLITS[::-1]))
    assert np.abs(other.statistics("face")[0] - data.statistics("face")[0]).max() > 0.01
    assert np.isnan(training_prior(other.listing())).all()
    before, after = by_frame(ensemble.predict(data)), by_frame(ensemble.predict(other))
    assert before.keys() == after.keys()
    for key, row in before.items():
        near(after[key], row)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sets": ["face", "poses"]}, r"no feature set 'pose', .*did you mean 'poses'"),
        ({"sets": ["face"]}, r"no feature set 'pose', .*known are face"),
        ({"wider": 1}, r"feature set 'face' .* has 4 features, the model was trained on 3"),
    ],
)
def test_a_dataset_with_other_features_is_refused(
    ensemble: Ensemble, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    other = zoo.dataset(tmp_path / "other", **changes)
    with pytest.raises(InputError, match=sentence):
        ensemble.predict(other)


def test_further_feature_sets_do_not_matter(
    data: Dataset, ensemble: Ensemble, tmp_path: Path
) -> None:
    more = zoo.dataset(tmp_path / "more", sets=["extra", "pose", "face"])
    near(ensemble.predict(more).outputs, ensemble.predict(data).outputs)


def test_models_are_built_once_and_only_needed_passes_run(
    data: Dataset,
    trained: dict[str, zoo.Trained],
    ensemble: Ensemble,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passes = []
    predict: Callable[..., np.ndarray] = inference.predict
    monkeypatch.setattr(module, "place_model", None)
    monkeypatch.setattr(inference, "predict", lambda *a: passes.append(a) or predict(*a))
    ensemble.predict(data)
    needed = [{trained[m].epochs[t] for t in counts} for m, counts in zoo.COUNTS.items()]
    assert len(passes) == sum(map(len, needed))


def test_members_share_joined_sequences(
    data: Dataset, ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = []
    join: Callable[..., Any] = module.join_any
    monkeypatch.setattr(module, "join_any", lambda *a: joined.append(a) or join(*a))
    ensemble.predict(data)
    assert len(joined) == 3, "of four members two walk over the same sequences"


def test_load_reads_a_folder(
    data: Dataset, trained: dict[str, zoo.Trained], ensemble: Ensemble, tmp_path: Path
) -> None:
    write_folder(tmp_path / "export", zoo.export_files(data, trained))
    loaded = Ensemble.load(tmp_path / "export", device="cpu")
    assert np.array_equal(loaded.predict(data).outputs, ensemble.predict(data).outputs)


def test_a_gpu_that_is_not_there_is_refused(
    ensemble: Ensemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU is visible"):
        Ensemble(ensemble.export, "cuda")


def test_the_ensemble_imports_neither_ray_nor_optuna_nor_hydra() -> None:
    banned = "{'ray', 'optuna', 'hydra', 'omegaconf'}"
    code = f"import sys, mtl.ensemble; print({banned} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("set()\n", 0)


def test_spans_hold_whole_videos() -> None:
    sizes = np.array([3, 3, 9, 2, 2])
    video = np.repeat(np.array([1, 0, 2, 4, 3]), 2)
    assert video_spans(video, sizes, 6) == [slice(0, 4), slice(4, 6), slice(6, 10)]
    assert video_spans(video, sizes, 1) == [slice(i, i + 2) for i in range(0, 10, 2)]
    assert video_spans(video, sizes, 100) == [slice(0, 10)]
    assert video_spans(video[:0], sizes, 100) == []
    mixed = np.array([0, 0, 1, 2, 1, 2, 3])
    assert video_spans(mixed, sizes, 1) == [slice(0, 2), slice(2, 6), slice(6, 7)]


def test_predictions_do_not_need_labels_or_statistics_of_the_dataset(
    data: Dataset, ensemble: Ensemble, tmp_path: Path
) -> None:
    """The other dataset has only test frames, so no labels, statistics or training prior."""
    only = zoo.listing(labels=False, splits=("test",) * len(zoo.NAMES))
    other = zoo.dataset(tmp_path / "other", only)
    found, expected = (by_frame(ensemble.predict(each)) for each in (other, data))
    assert found.keys() == expected.keys()
    near(np.stack([found[key] for key in expected]), np.stack(list(expected.values())))
