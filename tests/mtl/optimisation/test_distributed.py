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
from tests.support.worker_cases import CASES, HALF_PRECISION, LENGTHS, RUNS, uneven
from tests.support.worker_processes import BACKENDS, Results, run_groups

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Results]:
    """Results of each worker, by the number of workers."""
    return run_groups(tmp_path_factory.mktemp("workers"))


@pytest.fixture(params=BACKENDS, ids="{}_workers".format)
def group(request: pytest.FixtureRequest, groups: dict[int, Results]) -> Results:
    """Results of each worker of one group."""
    return groups[request.param]


@cache
def alone(case: str) -> Any:
    return CASES[case](SINGLE_WORKER)


def differences(one: Any, other: Any, path: str = "") -> dict[str, float]:
    """Return the largest difference of numbers by their place; other values must be equal."""
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
def test_all_workers_have_bit_identical_results(group: Results, name: str) -> None:
    first, *others = (pickle.dumps(worker[f"train {name}"]) for worker in group)
    assert all(other == first for other in others)


@pytest.mark.parametrize("balancing", HALF_PRECISION)
def test_any_number_of_workers_overflows_at_the_same_scale(group: Results, balancing: str) -> None:
    """The losses differ by float16's rounding alone, and the same steps are skipped."""
    expected = alone(f"half precision {balancing}")
    assert expected["scale"] < 65536, "no step has overflowed"
    for worker in group:
        found = worker[f"half precision {balancing}"]
        assert found["scale"] == expected["scale"]
        assert_near(found["losses"], expected["losses"], 5e-3)


def test_any_number_of_workers_finds_the_same_collapse(group: Results) -> None:
    expected = alone("collapse")
    assert [result["collapsed"] for result in expected] == [
        {task: epoch > 1 and task != "valence" for task in TASKS} for epoch in (1, 2, 3)
    ]
    assert all(spread > 0 for result in expected for spread in result["output_spread"].values())
    for worker in group:
        assert_near(worker["collapse"], expected)
        assert pickle.dumps(worker["collapse"]) == pickle.dumps(group[0]["collapse"])


@pytest.mark.parametrize("size", BACKENDS)
@pytest.mark.parametrize("make", [carried_schedule, free_schedule])
def test_the_runs_include_idle_workers_and_batches_without_labels(make: Any, size: int) -> None:
    """Some batches have no label of a task, and some have labels at one worker only."""
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
    """Return True for each task with a label in a worker's batch."""
    pieces = step.reshape(-1, 3).tolist()
    masks = [zoo.train[i].mask[start : start + length] for i, start, length in pieces]
    return [bool(np.concatenate(masks)[:, task.labels].any()) for task in TASKS.values()]


def test_parameters_of_the_balancing_get_exact_gradients(group: Results) -> None:
    expected = alone("learn balancing")
    for worker in group:
        assert_near(worker["learn balancing"], expected)
        assert worker["learn balancing"]["gradient"] == group[0]["learn balancing"]["gradient"]
    assert all(abs(value) > 0.01 for value in expected["gradient"].values())


@pytest.mark.parametrize("case", ["resume fixed", "resume pcgrad"])
def test_any_number_of_workers_continues_a_checkpoint(group: Results, case: str) -> None:
    expected = alone(case)
    for worker in group:
        assert_near(worker[case], expected)


def test_each_worker_draws_its_own_dropout(group: Results) -> None:
    results = [worker["drop out"] for worker in group]
    zeros = [result["zeros"] for result in results]
    assert all(0.6 < z.mean() < 0.9 for z in zeros)
    assert len({z.tobytes() for z in zeros}) == len(group)
    assert len({pickle.dumps(result["same"]) for result in results}) == 1
    assert results[0]["seed"] == alone("drop out")["seed"]


def test_the_frames_are_divided_among_the_workers(group: Results) -> None:
    """Each worker trains on and predicts some of the frames."""
    shares = [worker["drop out"]["frames"] for worker in group]
    assert sum(shares) == alone("drop out")["frames"]
    assert min(shares) > 0


def test_workers_are_shown_the_labels_of_their_lanes(group: Results) -> None:
    """Teacher forcing shows each window the same labels for any number of workers."""
    expected = alone("show labels")
    assert any(shown.any() for shown in expected)
    for rank, worker in enumerate(group):
        for shown, of_all in zip(worker["show labels"], expected, strict=True):
            own = of_all[rank :: len(group)]
            np.testing.assert_array_equal(shown[: len(own)], own)
            assert not shown[len(own) :].any()


def test_any_number_of_workers_pretrains_the_same_autoencoder(group: Results) -> None:
    expected = alone("pretrain an autoencoder")
    for worker in group:
        found = worker["pretrain an autoencoder"]
        assert found["images"] == expected["images"] == [15, 15]
        assert_near(found["losses"], expected["losses"])
        assert_near(found["weights"], expected["weights"], 1e-4)


# Early end


def test_a_stop_request_at_rank_0_ends_all_workers_at_the_same_step(group: Results) -> None:
    steps, epochs = alone("stop of the first")
    assert 10 <= steps <= 10 + STOP_CHECK_STEPS
    assert epochs == 0
    assert [worker["stop of the first"] for worker in group] == [(steps, epochs)] * len(group)


def test_a_stop_request_at_another_rank_is_ignored(group: Results) -> None:
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
def test_all_workers_raise_the_same_error(group: Results, case: str, says: str) -> None:
    assert says in alone(case)
    assert [worker[case] for worker in group] == [alone(case)] * len(group)


# Predictions


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_predictions_depend_on_the_video_only(group: Results, encoder: str) -> None:
    """Workers, lanes, other videos and their order do not matter."""
    expected = alone(f"predict {encoder}")["16 lanes"]
    assert np.ptp(expected, axis=0).min() > 1e-3
    for worker in (alone(f"predict {encoder}"), *(w[f"predict {encoder}"] for w in group)):
        for outputs in worker.values():
            np.testing.assert_allclose(outputs, expected, atol=TOLERANCE, rtol=0)


# Collectives


def test_sum_adds_the_vectors_of_all_workers(group: Results) -> None:
    size = len(group)
    ranks = size * (size - 1) / 2
    for worker in group:
        found = worker["add up"]
        assert found["sums"] == [[ranks, 2 * size], [0.5 * size + ranks]]
        assert found["large"][:size] == [np.float32(2**24 + size - 1)] * size
        assert found["dtypes"] == [torch.float32, torch.float64]
        assert found["gradients"] == [[2, 2], [3]]
        assert found["exchanges"] == 1


def test_rows_are_summed_and_combined_by_rank_0(group: Results) -> None:
    total = len(group) * (len(group) + 1) / 2
    for worker in group:
        found = worker["combine rows"]
        assert found["sum"] == [4 * total, 6 * total]
        assert found["drawn"] == alone("combine rows")["drawn"]
        assert found["overflow"] == [np.inf, np.inf]


def test_broadcasts_return_the_values_of_rank_0(group: Results) -> None:
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


def test_a_single_worker_returns_its_arguments() -> None:
    values, part, model = np.ones(2), torch.ones(2), torch.nn.Linear(1, 1)
    assert Workers.from_process_group() == SINGLE_WORKER == Workers(0, 1)
    assert SINGLE_WORKER.wrap(model) is model
    assert SINGLE_WORKER.sum([part])[0] is part
    assert SINGLE_WORKER.combine_rows(part, lambda rows: rows) is part
    assert SINGLE_WORKER.all_reduce(values) is values
    assert SINGLE_WORKER.broadcast_object(values) is values
    assert SINGLE_WORKER.broadcast_flag(True)
    assert not SINGLE_WORKER.broadcast_flag(False)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("lanes", [1, 2, 4, 6])
def test_shard_takes_every_w_th_lane(lanes: int, size: int) -> None:
    schedule = np.arange(1, 2 * lanes * 3 + 1).reshape(2, lanes, 1, 3)
    split = [Workers(rank, size).shard(schedule) for rank in range(size)]
    width = max(1, -(-lanes // size))
    assert {part.shape for part in split} == {(2, width, 1, 3)}
    dealt = np.stack(split, axis=2).reshape(2, width * size, 1, 3)
    np.testing.assert_array_equal(dealt[:, :lanes], schedule)
    assert not dealt[:, lanes:].any()
