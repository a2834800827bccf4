"""One sampled config, trained in a slot: Tune's side of it.

Tune's trial is a thin reused actor on the driver's node without torch: it makes one named streaming
call on a slot, writes each event to the trial's folder and then reports it.
"""

import json
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from mtl.dataset import Listing
from sweeps.job import End, Epoch, Job
from sweeps.trial_folder import TrialFolder

RUNNING = "running"


def run_trial(config: Mapping[str, Any], listing: Listing) -> None:
    """Tune's trainable: train ``config["job"]`` in slot ``config["slot"]``, write and report."""
    folder = TrialFolder(Path(config["folder"]))
    try:
        checkpoint, weights = folder.saved()
        job = Job(**config["job"], checkpoint=checkpoint, weights=weights)
        for event in _events(config["slot"], job):
            if isinstance(event, Epoch):
                folder.write_epoch(event)
                report(RUNNING, result=event.result)
                continue
            if event.state != "interrupted":
                folder.write_end(event, listing)
            report(event.state)
    except Exception as error:
        # One trial's failure is a result like another: the sweep goes on.
        folder.write_error(_trace(error))
        # An error that the slot's call ended with leaves the slot free; after any other it trains
        # on, or is dead.
        report("failed", reason=_reason(error), slot_free=isinstance(error, RayTaskError))


def _events(slot: ActorHandle[Any], job: Job) -> Iterator[Epoch | End]:
    train: Any = slot.train
    for ref in train.options(name=job.name, num_returns="streaming").remote(job):
        yield ray.get(ref)


def report(state: str, **metrics: Any) -> None:
    """Hand one event to the driver; nested values travel as JSON, which Tune leaves alone."""
    plain = {k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in metrics.items()}
    tune.report({"state": state, **plain})


def _reason(error: Exception) -> str:
    if isinstance(error, RayActorError):
        return "the slot's process died"
    cause = error.cause if isinstance(error, RayTaskError) else error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"


def _trace(error: Exception) -> str:
    if isinstance(error, RayTaskError):
        return str(error)
    return "".join(traceback.format_exception(error))
