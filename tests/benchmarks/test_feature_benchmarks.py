"""Tests of the feature benchmarks on small data."""

from importlib import import_module
from types import ModuleType

import numpy as np
import pytest
import torch

from mtl.dataset import open_dataset, write_dataset
from mtl.evaluation.metrics import scores
from mtl.features.mae import VITS, MaskedAutoencoder
from mtl.sequences.folds import select_videos
from mtl.synthetic import Demo, make_demo
from tests.support.paths import ROOT

SMALL = Demo(videos=16, split_shares=(0.5, 0.4, 0.1), mean_frames=30)


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module(request.param)


@pytest.mark.parametrize("benchmark", ["probes"], indirect=True)
def test_a_probe_uses_one_set_and_the_confirm_videos(benchmark, tmp_path):
    dataset = make_demo(tmp_path / "demo", demo=SMALL)
    listing = dataset.listing()
    probed = benchmark.probe(tmp_path / "demo", "geometry")
    held = [n for n, split in enumerate(listing.splits) if split == "validation"]
    parts = select_videos(
        [listing.names[n] for n in held], [listing.subjects[n] for n in held], 0.5, 1234
    )
    confirm = {listing.names.index(name) for name, part in parts.items() if part == "confirm"}
    assert set(probed.video.tolist()) == confirm
    # A dataset that has only this set gives the same outputs.
    blocks = [
        (name, index.frames[a:b], dataset.read("geometry", int(a), int(b)))
        for index in [dataset.index("geometry")]
        for name, a, b in zip(index.names, index.starts, index.starts[1:], strict=False)
    ]
    write_dataset(tmp_path / "alone", listing, {"geometry": iter(blocks)}, sources={})
    alone = benchmark.probe(tmp_path / "alone", "geometry")
    np.testing.assert_array_equal(probed.outputs, alone.outputs)
    assert not np.array_equal(probed.outputs, benchmark.probe(tmp_path / "demo", "motion").outputs)
    assert open_dataset(tmp_path / "alone").feature_sets() == ("geometry",)
    pooled = benchmark.pooled([probed, probed])
    single = scores(probed.outputs, probed.values, probed.mask)
    assert pooled["p_labelled"].score == pytest.approx(single["p_labelled"])
    assert pooled["p_labelled"].influence.shape[1] == 2 * len(confirm)


@pytest.mark.parametrize("benchmark", ["probes"], indirect=True)
def test_gains_are_paired_differences_to_the_same_backbone_at_random(benchmark):
    random = np.random.default_rng(0)
    values = np.zeros((400, 15), np.float32)
    values[:, :2] = random.standard_normal((400, 2)).clip(-1, 1) * 0.5
    mask = np.zeros((400, 15), bool)
    mask[:, :2] = True
    video = np.repeat(np.arange(20, dtype=np.int32), 20)

    def probed(noise: float):
        outputs = np.full((400, 22), np.nan, np.float32)
        outputs[:, :2] = values[:, :2] + noise * random.standard_normal((400, 2))
        return benchmark.Probed(outputs, values, mask, video)

    noise = {"mae": 0.1, "supervised": 0.1, "random_mae": 0.5, "random_supervised": 0.1}
    scored = {name: benchmark.pooled([probed(std)]) for name, std in noise.items()}
    found = benchmark.compare(scored)
    gain = found["mae - random_mae"]["p_labelled"]
    both = found["mae"]["p_labelled"]["score"] - found["random_mae"]["p_labelled"]["score"]
    assert gain["score"] == pytest.approx(both, abs=1e-3)
    assert gain["interval"][0] > 0
    none = found["supervised - random_supervised"]["p_labelled"]["interval"]
    assert none[0] < 0 < none[1]
    text = benchmark.table(found)
    assert f"| mae - random_mae | {gain['score']:+.3f} [" in text


@pytest.mark.parametrize("benchmark", ["mae_step"], indirect=True)
def test_the_plain_step_is_the_same_learning_problem(benchmark, monkeypatch):
    """The plain model has the same parameters plus the mask token, and the same targets."""
    torch.manual_seed(0)
    plain, ours = benchmark.Plain("mae_vit_mini", 64), MaskedAutoencoder(VITS["mae_vit_mini"], 64)
    extra = sum(p.numel() for p in plain.parameters()) - sum(p.numel() for p in ours.parameters())
    assert extra == VITS["mae_vit_mini"].width
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    before = plain.losses(images, noise)
    removed = noise.argsort(dim=1).argsort(dim=1) >= plain.visible
    grid = removed.reshape(2, 4, 4).repeat_interleave(16, 1).repeat_interleave(16, 2)[:, None]
    # With constant predictions, removed patches can change the loss only through their targets.
    with torch.no_grad():
        plain.decoder_pred.weight.zero_()
        plain.decoder_pred.bias.zero_()
    flat = plain.losses(images.masked_fill(grid, 0.5), noise)
    assert (flat < 1e-6).all()
    assert (before > 0.1).all()
    monkeypatch.setattr(benchmark, "CASES", {"mae_vit_mini": (64,)})
    found = benchmark.measure("mae_vit_mini", 64, 2, rounds=2)
    assert found["ratio_min"] <= found["ratio"] <= found["ratio_max"]
    assert found["ours_s"] > 0


@pytest.mark.parametrize("benchmark", ["probes"], indirect=True)
def test_make_features_names_the_sets_that_the_probes_take(benchmark):
    makefile = (ROOT / "Makefile").read_text()
    for name, (backbone, size) in benchmark.SETS.items():
        weights = f"--size {size} --weights $(FACES)/{name}/weights.safetensors"
        assert f"--backbone {backbone} {weights}" in makefile
        assert f"{name}=$(FACES)/features/{name}" in makefile


@pytest.mark.parametrize("benchmark", ["probes"], indirect=True)
def test_the_interval_of_a_gain_follows_from_the_spread_over_seeds(benchmark):
    found = benchmark.gains_over_seeds(
        {"alike": [0.1, 0.1, 0.1], "apart": [-0.1, 0.1, 0.3], "one": [0.2]}
    )
    assert found["alike"]["interval"] == [0.1, 0.1]
    assert found["apart"]["mean"] == 0.1
    low, high = found["apart"]["interval"]
    assert (low + high) / 2 == pytest.approx(0.1)
    assert high - 0.1 == pytest.approx(4.303 * 0.2 / 3**0.5, abs=1e-3)
    assert np.isnan(found["one"]["interval"]).all()
