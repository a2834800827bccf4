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
from mtl.errors import in_one_line
from sweeps.records.messages import Begin, End, Epoch, Event, Job, SlotLost, TrialFailed
from sweeps.storage.trial_folder import TrialFolder

RUNNING, BEGUN, FAILED, LOST = "running", "begun", "failed", "lost"


class SlotTrial(tune.Trainable):
    """Tune's trainable: trains ``config["job"]`` in slot ``config["slot"]``, an event a step."""

    # Tune's ``with_parameters`` gives a class its parameters here.
    def setup(self, config: Mapping[str, Any], listing: Listing) -> None:  # type: ignore[override]
        """Begin the actor's first trial."""
        self._listing = listing
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Begin the next one."""
        self._reports = reports(new_config, self._listing)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next event."""
        return next(self._reports)


def reports(config: Mapping[str, Any], listing: Listing) -> Iterator[dict[str, Any]]:
    """What happens in the slot, one report each; its files are written before.

    Nested values travel as JSON, which Tune leaves alone.
    """
    folder = TrialFolder(Path(config["folder"]))
    try:
        checkpoint, weights = folder.saved()
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
        # One trial's failure is a result like another: the sweep goes on.
        state, reason, trace = _what_broke(error)
        folder.write_error(trace)
        yield {"state": state, "reason": reason, "done": True}


def _events(slot: ActorHandle[Any], job: Job) -> Iterator[Event]:
    train: Any = slot.train
    call = train.options(name=job.name, num_returns="streaming").remote(job)
    for ref in call:
        event: Event = ray.get(ref)
        if isinstance(event, End):
            # Ray's dashboard shows a call as failed whose caller went before it was over.
            ray.wait([call.completed()])
        yield event


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
