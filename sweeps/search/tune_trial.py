"""Ray Tune's side of a trial, which is trained elsewhere, in a slot.

A slot is an actor that trains one trial after another, alone or with DDP workers. Tune's side is a
small, reused actor on the driver's node, without torch. For a trial it makes one streaming call to
a slot, writes each event to the trial's folder and then reports it to Tune.
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
"""States in a report to Tune: epoch ended, DDP workers started, trial failed, slot died."""


class SlotTrial(tune.Trainable):
    """Ray Tune trainable that sends a trial to a slot and reports one of its events per step.

    A slot is an actor that trains one trial after another. An event is the start of workers, the
    end of an epoch, or the end of the trial. Tune's config has the keys ``slot`` (the actor),
    ``folder`` (the trial's folder) and ``job`` (fields of the ``Job``).
    """

    # ``tune.with_parameters`` passes its parameters to ``setup``.
    def setup(self, config: Mapping[str, Any], listing: Listing) -> None:  # type: ignore[override]
        """Start the first trial of this Tune actor.

        Args:
            config: Dict with ``slot`` (actor that trains), ``folder`` (the trial's folder) and
                ``job`` (fields of the ``Job``).
            listing: All frames named in the dataset's annotation files.
        """
        self._listing = listing
        self.reset_config(config)

    def reset_config(self, new_config: Mapping[str, Any]) -> bool:
        """Start the next trial in this Tune actor; return True, so that Tune reuses the actor."""
        self._reports = reports(new_config, self._listing)
        return True

    def step(self) -> dict[str, Any]:
        """Wait for the next event of the trial, such as the end of an epoch; return its report."""
        return next(self._reports)


def reports(config: Mapping[str, Any], listing: Listing) -> Iterator[dict[str, Any]]:
    """Train a trial in a slot and yield a report for Tune for each event, such as an epoch's end.

    The event's files are written before its report is yielded. Nested values are JSON texts, since
    Tune would flatten dicts.

    Args:
        config: Dict with ``slot`` (actor that trains), ``folder`` (the trial's folder) and ``job``
            (fields of the ``Job``).
        listing: All frames named in the dataset's annotation files.
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
                yield {"state": event.state, "collapsed": list(event.collapsed), "done": True}
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
    """Return the state, the reason and the traceback that report an error of a slot's call.

    The state is `FAILED` if the trial itself failed, or `LOST` if its slot can train no more.
    """
    if isinstance(error, RayActorError):
        return LOST, "the slot's process died", str(error)
    if not isinstance(error, RayTaskError):
        # The slot's call did not fail: the slot trains on without a reader of its events.
        return LOST, in_one_line(error), "".join(traceback.format_exception(error))
    if isinstance(error.cause, TrialFailed):
        return FAILED, error.cause.reason, error.cause.trace
    state = LOST if isinstance(error.cause, SlotLost) else FAILED
    return state, in_one_line(error.cause), str(error)
