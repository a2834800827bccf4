"""The recipe of the ABAW4 winner: nine configs, each trained once, of the paper's sizes."""

from contextlib import closing

import pytest
import torch

from mtl.build_model import build_model
from mtl.config import TrialConfig
from mtl.tasks import TASKS
from sweeps.planning.compose import compose
from sweeps.planning.plan import Plan, make_plan
from sweeps.run import open_study
from sweeps.search_file import load
from sweeps.storage.driver_lock import DriverLock
from tests.support.paths import ROOT
from tests.support.small_data import FRAMES, NAMES, WIDTH, make_dataset

SPACE = ROOT / "sweeps/configs/spaces/abaw4_winner.yaml"
HIDDEN, FEEDFORWARD, HEAD = 1024, 2048, (512, 256)
OUTPUTS = {"valence": 1, "arousal": 1, "expression": 8, "action_units": 12}
SETS = ("mae", "iresnet", "densenet")


@pytest.fixture
def plan(tmp_path) -> Plan:
    dataset = make_dataset(
        tmp_path / "data", frames={name: dict.fromkeys(NAMES, FRAMES) for name in SETS}
    )
    return make_plan(load(SPACE, [f"data={tmp_path / 'data'}"]), dataset)


@pytest.fixture
def configs(plan, tmp_path) -> list[TrialConfig]:
    """Configs of all trials that the sweep proposes, in their order."""
    with closing(open_study(tmp_path / "run", plan, DriverLock(tmp_path / "run"))) as study:
        proposals = list(iter(study.ask, None))
    assert len({proposal.signature for proposal in proposals}) == len(proposals)
    return [compose(proposal.overrides) for proposal in proposals]


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def transformer_layer() -> int:
    attention = linear(HIDDEN, 3 * HIDDEN) + linear(HIDDEN, HIDDEN)
    norms = 2 * 2 * HIDDEN
    return attention + linear(HIDDEN, FEEDFORWARD) + linear(FEEDFORWARD, HIDDEN) + norms


def recurrent_layer(inputs: int, gates: int) -> int:
    return gates * HIDDEN * (inputs + HIDDEN + 2)


def heads() -> int:
    trunk = linear(HIDDEN, HEAD[0]) + linear(*HEAD)
    return sum(trunk + linear(HEAD[1], outputs) for outputs in OUTPUTS.values())


def parameters(encoder: str, features: int) -> int:
    """Return the parameters by the paper's sizes: a bottom, a top and a head for each task.

    The top of arousal also gets the hidden states of two heads, each of width 256.
    """
    fed = HIDDEN + 2 * HEAD[1]
    if encoder == "transformer":
        layers = (2 + 2 * len(OUTPUTS)) * transformer_layer()
        return linear(features, HIDDEN) + layers + linear(fed, HIDDEN) + heads()
    gates = {"gru": 3, "lstm": 4}[encoder]
    inputs = [features, *[HIDDEN] * (len(OUTPUTS) - 1), fed]
    return sum(recurrent_layer(width, gates) for width in inputs) + heads()


def test_each_of_the_nine_configs_is_proposed_once_in_the_file_s_order(configs):
    assert [(config.encoder.name, config.training.seed) for config in configs] == [
        (encoder, seed) for seed in range(3) for encoder in ("transformer", "gru", "lstm")
    ]


def test_the_models_have_the_paper_s_sizes(plan, configs):
    features, sizes = len(SETS) * WIDTH, {}
    for config in configs:
        with torch.device("meta"):
            model = build_model(config, features, tuple(TASKS))
        sizes[config.encoder.name] = sum(p.numel() for p in model.parameters())
    assert sizes == {encoder: parameters(encoder, features) for encoder in sizes}
    assert plan.parameters == (min(sizes.values()), max(sizes.values()))


def test_the_training_is_the_paper_s(plan, configs):
    for config in configs:
        assert (config.training.epochs, config.sequence.window_frames) == (50, 64)
        assert (config.optim.lr, config.optim.batch_videos) == (5e-5, 8)
        assert config.optim.gradient_clip == 5.0
        weights = {"valence": 12, "arousal": 12, "expression": 0.35, "action_units": 1}
        assert config.balancing.parameters == weights
        feedback = config.framework.parameters
        assert feedback["form"] == "features"
        assert (feedback["sources"], feedback["targets"]) == (
            ("valence", "action_units"),
            ("arousal",),
        )
    assert plan.rungs(50) == frozenset()
