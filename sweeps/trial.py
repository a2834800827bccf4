"""One sampled config, trained in a slot: Tune's side of it.

Tune's trial is a thin reused actor on the driver's node without torch: it makes one named streaming
call on a slot, writes each event to the trial's folder and then reports it.
"""

import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from mtl.dataset import Listing
from sweeps.job import Begin, Epoch, Event, Job, SlotLost, TrialFailed, in_one_line
from sweeps.trial_folder import TrialFolder

RUNNING, BEGUN, FAILED, LOST = "running", "begun", "failed", "lost"


def run_trial(config: Mapping[str, Any], listing: Listing) -> None:
    """Tune's trainable: train ``config["job"]`` in slot ``config["slot"]``, write and report."""
    folder = TrialFolder(Path(config["folder"]))
    try:
        checkpoint, weights = folder.saved()
        job = Job(**config["job"], checkpoint=checkpoint, weights=weights)
        for event in _events(config["slot"], job):
            if isinstance(event, Begin):
                report(BEGUN, **asdict(event))
            elif isinstance(event, Epoch):
                folder.write_epoch(event)
                report(RUNNING, result=event.result)
            else:
                if event.state != "interrupted":
                    folder.write_end(event, listing)
                report(event.state)
    except Exception as error:
        # One trial's failure is a result like another: the sweep goes on.
        state, reason, trace = _what_broke(error)
        folder.write_error(trace)
        report(state, reason=reason)


def _events(slot: ActorHandle[Any], job: Job) -> Iterator[Event]:
    train: Any = slot.train
    for ref in train.options(name=job.name, num_returns="streaming").remote(job):
        yield ray.get(ref)


def report(state: str, **metrics: Any) -> None:
    """Hand one event to the driver; nested values travel as JSON, which Tune leaves alone."""
    plain = {k: json.dumps(v) if isinstance(v, Mapping) else v for k, v in metrics.items()}
    tune.report({"state": state, **plain})


def _what_broke(error: Exception) -> tuple[str, str, str]:
    """The trial, or only its slot; why in one line; the trace."""
    if isinstance(error, RayActorError):
        return LOST, "the slot's process died", str(error)
    if not isinstance(error, RayTaskError):
        # Not the slot's call: the slot trains on, and nobody listens.
        return LOST, in_one_line(error), "".join(traceback.format_exception(error))
    if isinstance(error.cause, TrialFailed):
        return FAILED, error.cause.reason, error.cause.trace
    state = LOST if isinstance(error.cause, SlotLost) else FAILED
    return state, in_one_line(error.cause), str(error)
