"""Tests of the planted dataset: exact posterior, label frequencies, distance to ridge."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm

from mtl.dataset import SPLITS, Dataset
from mtl.evaluation.metrics import scores
from mtl.predictions.table import Predictions
from mtl.synthetic import CEILING_FILE, Demo, make_demo
from mtl.synthetic.demo import Planted, best_predictions, plant
from mtl.synthetic.label_model import EXPRESSION_SHARES, UNIT_SHARES, predict
from mtl.synthetic.layout import PATTERNS
from mtl.synthetic.ornstein_uhlenbeck import sample, smooth
from tests.support.paths import ROOT

SMALL = Demo(videos=14, mean_frames=60)
SEED = 20221018


@pytest.fixture(scope="module")
def planted() -> Planted:
    """The default demo, in memory."""
    return plant(Demo(), SEED)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Dataset]:
    """Folder and dataset of the default demo."""
    out = tmp_path_factory.mktemp("planted") / "demo"
    return out, make_demo(out, SEED)


@pytest.fixture(scope="module")
def ridge() -> ModuleType:
    """The program ``benchmarks/ridge.py`` as a module; it belongs to no package."""
    path = ROOT / "benchmarks" / "ridge.py"
    spec = importlib.util.spec_from_file_location("benchmark_ridge", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def condition(
    features: np.ndarray, loadings: np.ndarray, frames: np.ndarray, time_constants: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Reference posterior: condition one joint Gaussian of all states and features."""
    t, k = len(frames), len(time_constants)
    gaps = np.abs(frames[:, None] - frames[None, :])
    prior = np.zeros((t, k, t, k))
    for d in range(k):
        prior[:, d, :, d] = np.exp(-gaps / time_constants[d])
    prior = prior.reshape(t * k, t * k)
    view = np.kron(np.eye(t), loadings)
    gain = prior @ view.T @ np.linalg.inv(view @ prior @ view.T + np.eye(len(view)))
    covariance = (prior - gain @ view @ prior).reshape(t, k, t, k)
    covariances = np.stack([covariance[i, :, i] for i in range(t)])
    return (gain @ features.ravel()).reshape(t, k), covariances


@pytest.mark.parametrize("frames", [[5], [1, 2], [1, 4, 5, 20, 21, 90, 400, 401]])
def test_smoother_equals_dense_conditioning(frames: list[int]) -> None:
    rng = np.random.default_rng(0)
    times = np.array(frames, dtype=np.int32)
    time_constants = np.array([3.0, 40.0, 500.0, np.inf])
    loadings = rng.normal(0, 0.7, (6, 4))
    features = sample(rng, times, time_constants) @ loadings.T + rng.normal(size=(len(times), 6))
    means, covariances = smooth(features, loadings, times, time_constants)
    expected_means, expected_covariances = condition(features, loadings, times, time_constants)
    np.testing.assert_allclose(means, expected_means, atol=1e-10)
    np.testing.assert_allclose(covariances, expected_covariances, atol=1e-10)


def test_paths_are_stationary_and_forget_at_their_time_constant() -> None:
    frames = np.array([1, 11, 31], dtype=np.int32)
    rng = np.random.default_rng(0)
    paths = np.stack([sample(rng, frames, np.array([20.0, np.inf])) for _ in range(20000)])
    covariance = np.cov(paths[:, :, 0].T)
    lags = np.abs(frames[:, None] - frames[None, :])
    np.testing.assert_allclose(covariance, np.exp(-lags / 20), atol=0.03)
    assert np.all(paths[:, :, 1] == paths[:, :1, 1])


def test_posterior_is_calibrated_on_the_hidden_path(planted: Planted) -> None:
    """Squared errors divided by the posterior variance are 1 on average."""
    world, layout = planted.world, planted.layout
    loadings = np.concatenate([camera.loadings for camera in world.cameras.values()])
    ratios = []
    for index in np.flatnonzero(np.array(layout.splits) == "test"):
        rows = layout.video == index
        whitened = [c.whiten(planted.features[name][rows]) for name, c in world.cameras.items()]
        means, covariances = smooth(
            np.concatenate(whitened, axis=1), loadings, layout.frames[index], world.time_constants
        )
        variances = np.einsum("tkk->tk", covariances)
        ratios.append((planted.states[rows] - means) ** 2 / variances)
    assert np.concatenate(ratios).mean() == pytest.approx(1, abs=0.07)


def test_predictions_integrate_over_the_posterior(planted: Planted) -> None:
    readouts, rng = planted.world.readouts, np.random.default_rng(0)
    size = readouts.units.shape[1]
    root = rng.normal(0, 0.3, (size, size))
    mean, covariance = rng.normal(size=size), root @ root.T + 0.01 * np.eye(size)
    draws = rng.multivariate_normal(mean, covariance, 100_000)
    output = predict(readouts, mean[None], covariance[None])[0]
    value = readouts.affect_mean + readouts.affect_spread * (draws @ readouts.affect.T)
    classes = softmax(draws @ readouts.expression.T + readouts.expression_bias, axis=1)
    margin = (draws @ readouts.units.T - readouts.unit_threshold) / readouts.unit_noise
    np.testing.assert_allclose(output[:2], value.mean(0), atol=0.01)
    np.testing.assert_allclose(output[2:10], classes.mean(0), atol=0.02)
    np.testing.assert_allclose(output[10:], norm.cdf(margin).mean(0), atol=0.01)


def test_labels_have_the_challenges_frequencies(planted: Planted) -> None:
    train = planted.layout.rows("train")
    labels, mask = planted.labels[train], planted.mask[train]
    counts = np.bincount(labels[mask[:, 2], 2].astype(int), minlength=8)
    np.testing.assert_allclose(counts / counts.sum(), EXPRESSION_SHARES, atol=0.002)
    np.testing.assert_allclose(labels[mask[:, 3], 3:].mean(0), UNIT_SHARES, atol=0.002)
    assert np.abs(labels[:, :2]).max() <= 1
    assert (np.abs(labels[:, :2]) == 1).mean() < 0.01


def test_missing_labels_follow_the_challenges_pattern(planted: Planted) -> None:
    train, validation, test = (planted.mask[planted.layout.rows(split)] for split in SPLITS)
    known = train[:, [0, 2, 3]].mean(axis=0)
    expected = np.array([103917, 90645, 103316]) / 142333
    np.testing.assert_allclose(known, expected, atol=0.015)
    assert train.all(axis=1).mean() == pytest.approx(52154 / 142333, abs=0.015)
    assert train.any(axis=1).all()
    assert validation[:, [0, 1, *range(3, 15)]].all()
    assert validation[:, 2].mean() == pytest.approx(15440 / 26876, abs=0.015)
    assert not test.any()


def test_missing_labels_come_in_runs(planted: Planted) -> None:
    mask, video = planted.mask[:, [0, 2, 3]], planted.layout.video
    changes = (mask[1:] != mask[:-1]).any(axis=1) & (video[1:] == video[:-1])
    assert 0 < changes.mean() < 0.02


def test_patterns_are_shares() -> None:
    for patterns in PATTERNS.values():
        assert sum(patterns.values()) == pytest.approx(1)


def test_videos_are_uneven_and_their_frames_irregular(planted: Planted) -> None:
    lengths = np.array([len(frames) for frames in planted.layout.frames])
    assert 20_000 < lengths.sum() < 24_000
    assert lengths.max() > 5 * lengths.min()
    gaps = np.concatenate([np.diff(frames) for frames in planted.layout.frames])
    assert gaps.min() >= 1
    assert len(np.unique(gaps)) > 10
    assert all(frames[0] == 1 for frames in planted.layout.frames)


@pytest.mark.parametrize("shape", [Demo(), SMALL, Demo(videos=6, mean_frames=20)])
def test_splits_share_no_subject(shape: Demo) -> None:
    layout = plant(shape, 1).layout
    split_of: dict[str, str] = {}
    for subject, split in zip(layout.subjects, layout.splits, strict=True):
        assert split_of.setdefault(subject, split) == split
    assert len(split_of) < len(layout.names)
    assert set(layout.splits) == set(SPLITS)


def test_same_seed_same_content(tmp_path: Path) -> None:
    first, again, other = (
        make_demo(tmp_path / name, seed, SMALL) for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.hash == again.hash
    assert first.info["extra"] == again.info["extra"]
    assert first.hash != other.hash


def test_dataset_holds_what_was_planted(demo: tuple[Path, Dataset], planted: Planted) -> None:
    dataset = demo[1]
    listing = dataset.listing()
    np.testing.assert_array_equal(listing.mask, planted.mask)
    np.testing.assert_array_equal(listing.values[listing.mask], planted.labels[planted.mask])
    assert set(dataset.feature_sets()) == {"appearance", "geometry", "motion"}
    for name, features in planted.features.items():
        stored = dataset.read(name, 0, len(features))
        assert stored.dtype == np.float16
        np.testing.assert_array_equal(stored, features)


def test_ceiling_of_any_part_can_be_scored(demo: tuple[Path, Dataset], planted: Planted) -> None:
    out, dataset = demo
    ceiling, rows = Predictions.load(out / CEILING_FILE), planted.layout.rows("validation")
    labels, mask = planted.labels[rows], planted.mask[rows]
    recorded = json.loads((out / "dataset.json").read_text())["extra"]["ceiling"]
    assert scores(ceiling.outputs, labels, mask) == recorded == dataset.info["extra"]["ceiling"]
    part = ceiling.video == ceiling.video[0]
    assert scores(ceiling.outputs[part], labels[part], mask[part])["frames"] == part.sum()
    assert 1.6 < recorded["p_mtl"] < 2.3


def test_ridge_reaches_its_share_of_the_ceiling(
    demo: tuple[Path, Dataset], ridge: ModuleType
) -> None:
    dataset = demo[1]
    reached, ceiling = ridge.ridge_scores(dataset), dataset.info["extra"]["ceiling"]
    assert 0.5 < reached["validation"]["p_mtl"] / ceiling["p_mtl"] < 0.7
    for task in ("ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units"):
        assert reached["validation"][task] < ceiling[task]


def test_feature_sets_see_the_path_differently_well(planted: Planted) -> None:
    """Each feature set alone has its own best tasks, and all sets together beat each one."""
    tasks = ("ccc_valence", "ccc_arousal", "f1_expression", "f1_action_units")
    rows = planted.layout.rows("validation")
    labels, mask = planted.labels[rows], planted.mask[rows]

    def reached(*sets: str) -> np.ndarray:
        outputs = best_predictions(planted, "validation", sets).outputs
        by_task = scores(outputs, labels, mask)
        return np.array([by_task[task] for task in tasks])

    alone = np.stack([reached(name) for name in ("appearance", "geometry", "motion")])
    np.testing.assert_array_equal(alone.argmax(axis=0), [0, 2, 0, 1])
    assert (reached(*planted.features) > alone.max(axis=0)).all()
