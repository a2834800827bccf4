"""Events that the driver receives, and descriptions of failed workers."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from mtl.errors import InputError, TrainingError
from mtl.features.face_crops import find_images
from mtl.pretraining.config import MAEConfig
from mtl.pretraining.pretrainer import Pretrainer
from mtl.strict import validate_as
from sweeps.cluster.worker_group import describe_failure
from sweeps.planning.compose import compose_plain
from sweeps.pretraining import workers
from sweeps.pretraining.driver import TIMEOUTS_UNTIL_WAITING, receive
from sweeps.pretraining.events import (
    Event,
    PretrainingFailed,
    TrainingStarted,
    WorkerDied,
    WorkersEnded,
    WorkersWaiting,
)
from sweeps.pretraining.setup import PretrainingSetup, make_objective

TIMEOUTS = [None] * TIMEOUTS_UNTIL_WAITING


def received(*script: "Event | Exception | None") -> Iterator[Event]:
    events = iter(script)

    def take() -> "Event | None":
        event = next(events)
        if isinstance(event, Exception):
            raise event
        return event

    return receive(take)


def test_waiting_is_reported_once_until_the_workers_start():
    script = [
        *TIMEOUTS,
        *TIMEOUTS,
        TrainingStarted(0),
        *TIMEOUTS,
        WorkerDied("x"),
        *TIMEOUTS,
        TrainingStarted(2),
        WorkersEnded(None),
    ]
    assert list(received(*script)) == [
        WorkersWaiting(),
        TrainingStarted(0),
        WorkerDied("x"),
        WorkersWaiting(),
        TrainingStarted(2),
    ]
    few_timeouts = received(*TIMEOUTS[1:], TrainingStarted(0), WorkersEnded(None))
    assert list(few_timeouts) == [TrainingStarted(0)]


@pytest.mark.parametrize(
    ("last", "error", "message"),
    [
        (PretrainingFailed("no such image", mistake=True), InputError, "no such image"),
        (PretrainingFailed("not finite", mistake=False), TrainingError, "not finite"),
        (
            WorkersEnded("the workers could not be started: x"),
            TrainingError,
            "the workers could not be started: x; the same command goes on after the last epoch",
        ),
        (
            RayActorError(),
            TrainingError,
            "the process that holds the workers was lost; the same command goes on after the last "
            "epoch",
        ),
    ],
    ids=["mistake", "failure", "end", "lost actor"],
)
def test_an_early_end_raises_an_error(last, error, message):
    events = received(TrainingStarted(0), last)
    assert next(events) == TrainingStarted(0)
    with pytest.raises(error) as caught:
        next(events)
    assert str(caught.value) == message


def lost(reason: str) -> WorkerHealthCheckFailedError:
    error = ActorDiedError()
    error.error_msg = f"The actor died unexpectedly.\n\tclass_name: RayTrainWorker\n{reason}"
    return WorkerHealthCheckFailedError("A worker health check failed.", error)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            WorkerGroupError(
                "boilerplate", {0: RuntimeError("closed by peer"), 1: lost("No\nRAM.")}
            ),
            "the workers died once too often, the last time of: No RAM.",
        ),
        (
            WorkerGroupError(
                "boilerplate", {0: RayTaskError("f", "Traceback\n  a\nOSError: b", None)}
            ),
            "the workers died once too often, the last time of: OSError: b",
        ),
        (
            ControllerError(TimeoutError("no place\nat all")),
            "the workers could not be started: TimeoutError: no place",
        ),
        (OSError("disk"), "OSError: disk"),
    ],
    ids=["lost process", "task", "start", "other"],
)
def test_the_failure_of_a_worker_group_is_described_in_one_line(error, message):
    assert describe_failure(error) == message
    assert len(describe_failure(WorkerGroupError("", {0: lost("word " * 1000)}))) < 400


def test_unreadable_faces_are_left_out_of_the_picture(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    plain = compose_plain("pretrain_mae", ["backbone=mae_vit_mini", "size=32", "picture_epochs=1"])
    setup = PretrainingSetup(validate_as(MAEConfig, plain), find_images(tmp_path), None, 1, 0, 1)
    objective = make_objective(setup)
    assert workers.picture_faces(setup, objective) is None
    trainer = Pretrainer(objective, setup.config)
    step = {
        "pixels": np.zeros((2, 32, 32, 3), np.uint8),
        "valid": np.ones(2, bool),
        "noise": np.random.default_rng(0).random((2, objective.autoencoder.patches), np.float32),
    }
    trainer.train_epoch([{k: torch.from_numpy(v) for k, v in step.items()}], 1)
    assert workers.epoch_event(trainer, objective, None).picture is None
    Image.new("RGB", (32, 32)).save(tmp_path / "3.jpg")
    faces = workers.picture_faces(setup, objective)
    picture = workers.epoch_event(trainer, objective, faces).picture
    assert picture.shape == (1, 3, 32, 32, 3)
