import pytest
import torch

from mtl.errors import TrainingError
from mtl.optimisation.checkpoint import pack, unpack
from mtl.training.trainer import Trainer
from tests.support.laws import ENCODER_NAMES, config, data


def test_unpack_returns_the_packed_state() -> None:
    state = {
        "a": {"0": torch.arange(6.0).reshape(2, 3), "1": torch.tensor(4.0), "empty": {}},
        "b": [torch.arange(3), {"t": torch.ones(2, 0, dtype=torch.float64)}, None, "text", 1e-17],
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "flags": (True, torch.tensor([True, False])),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    found = unpack(pack(state))
    assert found["flags"][0] is True
    assert found["b"][2:] == [None, "text", 1e-17]
    assert found["a"]["empty"] == {}
    pairs = [
        (found["a"]["0"], state["a"]["0"]),
        (found["a"]["1"], state["a"]["1"]),
        (found["b"][0], state["b"][0]),
        (found["b"][1]["t"], state["b"][1]["t"]),
        (found["transposed"], state["transposed"]),
        (found["flags"][1], state["flags"][1]),
        (found["half"], state["half"]),
    ]
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_unpack_runs_no_code() -> None:
    with pytest.raises(Exception, match=r"(?i)header"):
        unpack(b"cos\nsystem\n(S'true'\ntR.")


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_a_trainer_s_checkpoint_restores_the_optimizer(name: str) -> None:
    trainer = Trainer(config(name), data())
    next(trainer.epochs())
    again = Trainer(config(name), data(), trainer.checkpoint())
    assert again.learning_curve == trainer.learning_curve
    one, other = trainer.optimizer.state_dict(), again.optimizer.state_dict()
    assert one["param_groups"] == [
        {**group, "betas": tuple(group["betas"])} for group in other["param_groups"]
    ]
    assert one["state"].keys() == other["state"].keys()
    for number, moments in one["state"].items():
        assert all(torch.equal(moments[key], other["state"][number][key]) for key in moments)


def test_a_damaged_checkpoint_is_an_error_of_one_sentence() -> None:
    trainer = Trainer(config(), data())
    next(trainer.epochs())
    for damaged in (b"", b"no checkpoint", trainer.checkpoint()[:-9]):
        with pytest.raises(TrainingError, match=r"checkpoint is damaged .*: remove it"):
            Trainer(config(), data(), damaged)
