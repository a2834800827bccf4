"""Tune's side of a trial that is trained in a slot.

It is a small, reused actor on the driver's node, without torch. It makes one named streaming call
on a slot, writes each event to the trial's folder and then reports it to Tune.
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
from mtl.errors import in_one_line
from sweeps.records.messages import Begin, End, Epoch, Event, Job, SlotLost, TrialFailed
from sweeps.storage.trial_folder import TrialFolder

RUNNING, BEGUN, FAILED, LOST = "running", "begun", "failed", "lost"
"""States of a report: an epoch, workers that are up, a failed trial, a lost slot."""


class SlotTrial(tune.Trainable):
    """Tune trainable that trains ``config["job"]`` in slot ``config["slot"]``, one event a step."""

    # ``tune.with_parameters`` passes its parameters to ``setup``.
    def setup(self, config: Mapping[str, Any], listing: Listing) -> None:  # type: ignore[override]
        """Start the actor's first trial.

        Args:
            config: The job, the slot and the trial's folder.
            listing: The dataset's listed frames.
        """
        self._listing = listing
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Start the actor's next trial."""
        self._reports = reports(new_config, self._listing)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next event of the slot and return its report."""
        return next(self._reports)


def reports(config: Mapping[str, Any], listing: Listing) -> Iterator[dict[str, Any]]:
    """Yield one report for each event of the slot, after the event's files are written.

    Nested values are passed as JSON, since Tune would flatten them.

    Args:
        config: The job, the slot and the trial's folder.
        listing: The dataset's listed frames.
    """
    folder = TrialFolder(Path(config["folder"]))
    try:
        checkpoint, weights = folder.load_checkpoint()
        job = Job(**config["job"], checkpoint=checkpoint, weights=weights)
        for event in _events(config["slot"], job):
            if isinstance(event, Begin):
                yield {"state": BEGUN, **asdict(event)}
            elif isinstance(event, Epoch):
                folder.write_epoch(event)
                yield {"state": RUNNING, "result": json.dumps(event.result)}
            else:
                if event.state != "interrupted":
                    folder.write_end(event, listing)
                yield {"state": event.state, "done": True}
    except Exception as error:
        # A failed trial is reported like any other result, so that the sweep continues.
        state, reason, trace = _failure(error)
        folder.write_error(trace)
        yield {"state": state, "reason": reason, "done": True}


def _events(slot: ActorHandle[Any], job: Job) -> Iterator[Event]:
    train: Any = slot.train
    call = train.options(name=job.name, num_returns="streaming").remote(job)
    for ref in call:
        event: Event = ray.get(ref)
        if isinstance(event, End):
            # Ray's dashboard shows a call as failed if its caller ends before it.
            ray.wait([call.completed()])
        yield event


def _failure(error: Exception) -> tuple[str, str, str]:
    """Return the state of a report (FAILED or LOST), the reason in one line, and the trace."""
    if isinstance(error, RayActorError):
        return LOST, "the slot's process died", str(error)
    if not isinstance(error, RayTaskError):
        # The slot's call did not fail: the slot trains on without a reader of its events.
        return LOST, in_one_line(error), "".join(traceback.format_exception(error))
    if isinstance(error.cause, TrialFailed):
        return FAILED, error.cause.reason, error.cause.trace
    state = LOST if isinstance(error.cause, SlotLost) else FAILED
    return state, in_one_line(error.cause), str(error)
