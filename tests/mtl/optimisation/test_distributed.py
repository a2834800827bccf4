import pickle
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from mtl.optimisation.distributed import SINGLE_WORKER, Workers
from mtl.sequences.windows import carried_schedule, free_schedule
from mtl.tasks import TASKS
from mtl.training.inference import TrialData
from mtl.training.trainer import STOP_CHECK_STEPS
from tests.support.laws import ENCODER_NAMES, TOLERANCE
from tests.support.worker_cases import CASES, LENGTHS, RUNS, uneven
from tests.support.worker_processes import BACKENDS, Results, run_groups

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Results]:
    """What the workers of each group found."""
    return run_groups(tmp_path_factory.mktemp("workers"))


@pytest.fixture(params=BACKENDS, ids="{}_workers".format)
def group(request: pytest.FixtureRequest, groups: dict[int, Results]) -> Results:
    """One of them."""
    return groups[request.param]


@cache
def alone(case: str) -> Any:
    return CASES[case](SINGLE_WORKER)


def differences(one: Any, other: Any, path: str = "") -> dict[str, float]:
    """How far numbers are apart, by their place; anything else must be equal."""
    if isinstance(one, Mapping):
        assert one.keys() == other.keys(), path
        parts = [differences(one[key], other[key], f"{path}/{key}") for key in one]
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        parts = [differences(a, b, path) for a, b in zip(one, other, strict=True)]
    elif isinstance(one, float | np.ndarray | torch.Tensor):
        one, other = np.asarray(one), np.asarray(other)
        assert np.array_equal(np.isnan(one), np.isnan(other)), path
        return {path: float(np.nan_to_num(abs(one - other)).max())}
    else:
        assert one == other, path
        return {}
    return {place: far for part in parts for place, far in part.items()}


def assert_near(one: Any, other: Any, tolerance: float = TOLERANCE) -> None:
    far = {place: d for place, d in differences(one, other).items() if not d <= tolerance}
    assert not far


# The same model


@pytest.mark.parametrize("name", RUNS)
def test_any_number_of_workers_trains_the_same_model(group: Results, name: str) -> None:
    expected = alone(f"train {name}")
    exact = RUNS[name].training.precision == "float64"
    for found in (worker[f"train {name}"] for worker in group):
        assert_near(found["after"], expected["after"], 1e-10 if exact else TOLERANCE)
        assert_near(found["results"], expected["results"])
        assert_near(found["predictions"], expected["predictions"])


@pytest.mark.parametrize("name", RUNS)
def test_all_workers_say_the_same_to_the_bit(group: Results, name: str) -> None:
    first, *others = (pickle.dumps(worker[f"train {name}"]) for worker in group)
    assert all(other == first for other in others)


@pytest.mark.parametrize("size", BACKENDS)
@pytest.mark.parametrize("make", [carried_schedule, free_schedule])
def test_these_runs_have_the_hard_cases(make: Any, size: int) -> None:
    """An idle worker; batches without a label of a task, and with one worker's alone."""
    zoo = uneven()
    idle = []
    for lanes in (1, 3):
        schedule = make(LENGTHS, lanes, 4, np.random.default_rng([0, 1]))
        split = [Workers(rank, size).shard(schedule) for rank in range(size)]
        idle += [not part[..., 2].any(axis=(1, 2)).all() for part in split]
        known = np.array([[labelled(zoo, step) for step in part] for part in split])
        assert (known.sum(axis=0) == 0).any()
        assert (known.sum(axis=0) == 1).any()
    assert any(idle)


def labelled(zoo: TrialData, step: np.ndarray) -> list[bool]:
    """Of which tasks a worker's batch has a label."""
    pieces = step.reshape(-1, 3).tolist()
    masks = [zoo.train[i].mask[start : start + length] for i, start, length in pieces]
    return [bool(np.concatenate(masks)[:, task.labels].any()) for task in TASKS.values()]


def test_what_is_balanced_outside_the_model_is_learnt_exactly(group: Results) -> None:
    expected = alone("learn balancing")
    for worker in group:
        assert_near(worker["learn balancing"], expected)
        assert worker["learn balancing"]["gradient"] == group[0]["learn balancing"]["gradient"]
    assert all(abs(value) > 0.01 for value in expected["gradient"].values())


def test_a_checkpoint_goes_on_with_any_number_of_workers(group: Results) -> None:
    expected = alone("resume")
    for worker in group:
        assert_near(worker["resume"], expected)


def test_each_worker_drops_out_its_own(group: Results) -> None:
    results = [worker["drop out"] for worker in group]
    zeros = [result["zeros"] for result in results]
    assert all(0.6 < z.mean() < 0.9 for z in zeros)
    assert len({z.tobytes() for z in zeros}) == len(group)
    assert len({pickle.dumps(result["same"]) for result in results}) == 1
    assert results[0]["seed"] == alone("drop out")["seed"]


def test_workers_share_the_frames_out(group: Results) -> None:
    """To train on and to predict."""
    shares = [worker["drop out"]["frames"] for worker in group]
    assert sum(shares) == alone("drop out")["frames"]
    assert min(shares) > 0


# How it ends early


def test_the_first_worker_s_stop_ends_all_at_one_step(group: Results) -> None:
    steps, epochs = alone("stop of the first")
    assert 10 <= steps <= 10 + STOP_CHECK_STEPS
    assert epochs == 0
    assert [worker["stop of the first"] for worker in group] == [(steps, epochs)] * len(group)


def test_another_worker_s_stop_ends_nothing(group: Results) -> None:
    steps, epochs = alone("stop of the second")
    assert epochs == 2
    assert [worker["stop of the second"] for worker in group] == [(steps, epochs)] * len(group)


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("fail at a rate", "is not finite at epoch 1, step 2: lower optim.lr = 1e+30"),
        ("fail at a feature", "is not finite at epoch 1, step 1: "),
        ("fail in training", "is not finite at epoch 1, step 3: "),
        ("fail in evaluation", "the predictions of valence are not finite after epoch 1: "),
    ],
)
def test_all_workers_fail_with_the_same_words(group: Results, case: str, says: str) -> None:
    assert says in alone(case)
    assert [worker[case] for worker in group] == [alone(case)] * len(group)


# Predictions


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_predictions_depend_on_nothing_but_the_video(group: Results, encoder: str) -> None:
    """Neither on workers or lanes, nor on the other videos or their order."""
    expected = alone(f"predict {encoder}")["16 lanes"]
    assert np.ptp(expected, axis=0).min() > 1e-3
    for worker in (alone(f"predict {encoder}"), *(w[f"predict {encoder}"] for w in group)):
        for outputs in worker.values():
            np.testing.assert_allclose(outputs, expected, atol=TOLERANCE, rtol=0)


# The exchanges themselves


def test_sums_are_those_of_all_workers(group: Results) -> None:
    size = len(group)
    ranks = size * (size - 1) / 2
    for worker in group:
        found = worker["add up"]
        assert found["sums"] == [[ranks, 2 * size], [0.5 * size + ranks]]
        assert found["large"][:size] == [np.float32(2**24 + size - 1)] * size
        assert found["dtypes"] == [torch.float32, torch.float64]
        assert found["gradients"] == [[2 * size, 2 * size], [3 * size]]
        assert found["exchanges"] == 1


def test_messages_are_the_first_worker_s(group: Results) -> None:
    rows = np.array([0.1 + rank for rank in range(len(group))], np.float32)
    for rank, worker in enumerate(group):
        found = worker["talk"]
        assert found["rank"] == rank
        assert found["agree"] == [True, False]
        assert found["share"] == {"rank": 0, "none": None}
        np.testing.assert_array_equal(found["total"][: len(rows)], np.repeat(rows[:, None], 3, 1))
        assert not found["total"][len(rows) :].any()
        assert found["untouched"]
        assert found["again"]
        assert found["buffers"] == alone("talk")["buffers"]
        assert found["buffers"]["running_mean"] == [pytest.approx(0.1)]


def test_one_alone_exchanges_nothing() -> None:
    """Whatever it is given comes back, the same object."""
    values, part, model = np.ones(2), torch.ones(2), torch.nn.Linear(1, 1)
    assert Workers.from_process_group() == SINGLE_WORKER == Workers(0, 1)
    assert SINGLE_WORKER.wrap(model) is model
    assert SINGLE_WORKER.sum([part])[0] is part
    assert SINGLE_WORKER.all_reduce(values) is values
    assert SINGLE_WORKER.broadcast_object(values) is values
    assert SINGLE_WORKER.broadcast_flag(True)
    assert not SINGLE_WORKER.broadcast_flag(False)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("lanes", [1, 2, 4, 6])
def test_lanes_are_dealt_out_in_turn(lanes: int, size: int) -> None:
    schedule = np.arange(1, 2 * lanes * 3 + 1).reshape(2, lanes, 1, 3)
    split = [Workers(rank, size).shard(schedule) for rank in range(size)]
    width = max(1, -(-lanes // size))
    assert {part.shape for part in split} == {(2, width, 1, 3)}
    dealt = np.stack(split, axis=2).reshape(2, width * size, 1, 3)
    np.testing.assert_array_equal(dealt[:, :lanes], schedule)
    assert not dealt[:, lanes:].any()
