from dataclasses import replace

import numpy as np
import pytest
import torch

from mtl.config import TrialConfig
from mtl.models.encoders import ENCODERS
from mtl.sequences.join import Part, VideoSequence
from mtl.sequences.windows import Batches, carried_schedule, free_schedule
from mtl.tasks import TASKS
from mtl.training import inference
from mtl.training.inference import predict, predict_best
from tests.support.laws import (
    ENCODER_NAMES,
    MODELS,
    STATEFUL_ENCODERS,
    TOLERANCE,
    config,
    data,
    model,
    part,
    videos,
)

CPU = torch.device("cpu")
LENGTHS = (9, 3, 14, 1, 6, 22)


def predicted(trial: TrialConfig, where: Part) -> np.ndarray:
    return predict(model(trial), trial, data(), where, CPU)


def rows_of(outputs: np.ndarray, sequences: tuple[VideoSequence, ...]) -> dict[str, np.ndarray]:
    ends = np.cumsum([len(video) for video in sequences])
    return dict(
        zip((v.video for v in sequences), np.split(outputs, ends[:-1].tolist()), strict=True)
    )


def assert_alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name in one.keys() & other.keys():
        np.testing.assert_allclose(one[name], other[name], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("names", MODELS, ids="-".join)
def test_predictions_do_not_depend_on_other_videos(names: tuple[str, str, str]) -> None:
    """Number, lengths and order of the other videos do not matter."""
    trial, zoo = config(*names), videos(LENGTHS)
    together = rows_of(predicted(trial, part(zoo)), zoo)
    turned = zoo[::-1]
    assert_alike(together, rows_of(predicted(trial, part(turned)), turned))
    for video in zoo:
        assert_alike(together, {video.video: predicted(trial, part([video]))})


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_predictions_do_not_depend_on_lanes(
    encoder: str, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, zoo = config(encoder), videos(LENGTHS)
    expected = predicted(trial, part(zoo))
    monkeypatch.setattr(inference, "EVALUATION_LANES", lanes)
    np.testing.assert_allclose(predicted(trial, part(zoo)), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("window", [2, 3, 64])
@pytest.mark.parametrize("encoder", STATEFUL_ENCODERS)
def test_predictions_do_not_depend_on_how_a_video_is_cut(encoder: str, window: int) -> None:
    zoo = part(videos(LENGTHS))
    expected = predicted(config(encoder), zoo)
    trial = config(encoder, sequence={"window_frames": window})
    np.testing.assert_allclose(predicted(trial, zoo), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("encoder", STATEFUL_ENCODERS)
def test_predictions_depend_on_frames_of_earlier_windows(encoder: str) -> None:
    """An encoder that ignores earlier frames would pass the test above too."""
    (video,) = videos((12,))
    half = video.features[0]
    other = replace(half, block=half.block.copy())
    other.block[4] += 3
    changed = replace(video, features=(other, video.features[1]))
    trial = config(encoder)
    difference = np.abs(predicted(trial, part([changed])) - predicted(trial, part([video])))
    assert difference[4:8].max() > 1e-4


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_predictions_do_not_depend_on_the_previous_video_of_the_lane(encoder: str) -> None:
    """The second video follows the first in one lane; the features of the first are huge."""
    first, second = videos((7, 7))
    huge = replace(first.features[0], block=np.full_like(first.features[0].block, 6e4))
    trial = config(encoder, sequence={"window_frames": 3})
    small = predicted(trial, part([second]))
    both = part([replace(first, features=(huge, first.features[1])), second])
    np.testing.assert_allclose(predicted(trial, both)[7:], small, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_outputs_are_values_and_probabilities(encoder: str) -> None:
    outputs = predicted(config(encoder), part(videos(LENGTHS)))
    assert outputs.dtype == np.float32
    assert np.abs(outputs[:, :2]).max() <= 1
    expression = outputs[:, TASKS["expression"].outputs]
    np.testing.assert_allclose(expression.sum(axis=1), 1, atol=1e-5)
    assert outputs[:, 2:].min() >= 0
    assert outputs[:, 2:].max() <= 1


def test_values_are_clipped() -> None:
    trial = config()
    network = model(trial)
    with torch.no_grad():
        network.heads["valence"].output.bias.fill_(7)
        network.heads["arousal"].output.bias.fill_(-7)
    outputs = predict(network, trial, data(), part(videos((5,))), CPU)
    assert (outputs[:, :2] == [1, -1]).all()


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_windows_are_stitched_by_their_mean(encoder: str) -> None:
    trial = config(encoder)
    network, zoo = model(trial).eval(), data()
    sequences = videos((10,), seed=4)
    carries = ENCODERS[encoder].carries_state
    (windows,) = (carried_schedule if carries else free_schedule)((10,), 1, 4, None).swapaxes(0, 1)
    sums, counts, state = np.zeros(10), np.zeros(10), None
    batches = Batches(sequences, zoo.mean, zoo.std, CPU)
    for pieces in windows:
        batch, (window,) = batches.cut(pieces[None]), pieces
        raw, state = network(batch.x, batch.valid, state)
        values = raw["valence"].clamp(-1, 1).detach().numpy()
        frames = slice(window[1], window[1] + window[2])
        sums[frames] += values[0, : window[2], 0]
        counts[frames] += 1
    assert counts.max() == (1 if carries else 2)
    outputs = predict(network, trial, zoo, part(sequences), CPU)
    np.testing.assert_allclose(outputs[:, 0], sums / counts, atol=TOLERANCE)


def sparse_part() -> Part:
    """Return a part of seven listed frames from two videos; two frames have no features."""
    sequences = videos((4, 3))
    source = np.array([3, -1, 0, 5, 5, -1, 0])
    empty = np.zeros((7, 15), np.float32)
    return Part(np.arange(7), sequences, source, empty, empty > 0)


def test_frames_take_their_source_or_the_prior() -> None:
    trial, where = config(), sparse_part()
    outputs = predicted(trial, where)
    frames = predicted(trial, part(where.sequences))
    for row, source in zip(outputs, where.source.tolist(), strict=True):
        np.testing.assert_array_equal(row, data().prior if source < 0 else frames[source])


def test_a_part_without_any_features_is_the_prior() -> None:
    empty = np.zeros((2, 15), np.float32)
    where = Part(np.arange(2), (), np.array([-1, -1]), empty, empty > 0)
    assert (predicted(config(), where) == data().prior).all()


@pytest.mark.parametrize("where", [sparse_part(), part(videos((4,))), part(())])
def test_untrained_tasks_are_nan(where: Part) -> None:
    trial = config(tasks=["expression", "valence"])
    zoo = replace(data(), tasks=("expression",))
    outputs = predict(model(trial, ("expression",)), trial, zoo, where, CPU)
    trained = np.zeros(22, bool)
    trained[TASKS["expression"].outputs] = True
    assert (np.isnan(outputs) == ~trained).all()


@pytest.mark.parametrize("names", MODELS, ids="-".join)
def test_each_task_is_predicted_from_its_best_epoch(names: tuple[str, str, str]) -> None:
    trial, zoo = config(*names), data()
    networks = {1: model(trial, seed=1), 4: model(trial, seed=4)}
    weights = {epoch: network.state_dict() for epoch, network in networks.items()}
    best = {"valence": 4, "arousal": 1, "expression": 1, "action_units": 4}
    outputs = predict_best(trial, zoo, weights, best)
    assert outputs.keys() == zoo.parts.keys()
    for name, where in zoo.parts.items():
        for task, epoch in best.items():
            columns = TASKS[task].outputs
            expected = predict(networks[epoch], trial, zoo, where, CPU)[:, columns]
            assert np.array_equal(outputs[name][:, columns], expected)


@pytest.mark.parametrize("names", MODELS, ids="-".join)
def test_predicting_draws_no_random_number(names: tuple[str, str, str]) -> None:
    trial = config(*names, dropout=0.5)
    network = model(trial).train()
    before = torch.get_rng_state()
    predict(network, trial, data(), part(videos((5,))), CPU)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_mixed_precision_is_close_to_float32(encoder: str) -> None:
    where = part(videos(LENGTHS))
    exact = predicted(config(encoder), where)
    near = predicted(config(encoder, training={"precision": "bfloat16"}), where)
    assert not np.array_equal(near, exact)
    np.testing.assert_allclose(near, exact, atol=0.05)
