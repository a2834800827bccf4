"""Pool of a sweep's slots (processes or groups of DDP workers that train trials)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError
from ray.util.placement_group import PlacementGroup, remove_placement_group

from mtl.errors import in_one_line
from sweeps.search_file import ResourcesSection
from sweeps.slots.control import Stop

SAY_EVERY_SECONDS = 30
"""Seconds between messages about slots that wait for resources."""
CLOSE_SECONDS = 30
"""Longest time in seconds that the pool waits for its slots to close."""
GRACE_SECONDS = 60
"""Seconds that the pool waits after the start timeout, so that Ray Train gives up a group first.

If the pool gave up a group of workers before Ray Train does, the group's placement group (CPUs and
GPUs) would stay reserved.
"""


@dataclass
class _Slot:
    actor: ActorHandle[Any]
    ready: Any
    since: float
    placement_group: str = ""


class SlotPool:
    """Pool that starts slots, gives free ones to trials and replaces slots that have died.

    A slot is a Ray actor that trains one trial after another, alone or with DDP workers. No method
    waits for a slot to start: slots that are up train while others still start. The actors are
    started at once, while their setup (features, listed frames and splits) is still being made;
    ``open`` gives them the setup.

    Args:
        start: Function that starts slot k, from 0, and returns its actor.
        number: Number of slots.
        resources: Resources section of the search file, with the start timeout.
        say: Function that prints a sentence for the user.

    Attributes:
        gone_reason: Reason why the last slot was given up; empty if none was.
    """

    def __init__(
        self,
        start: Callable[[int], ActorHandle[Any]],
        number: int,
        resources: ResourcesSection,
        say: Callable[[str], None] = print,
    ) -> None:
        self._start, self._resources, self._say = start, resources, say
        self._waiting: dict[int, _Slot] = {}
        self._up: dict[int, _Slot] = {}
        self._free: list[int] = []
        self._said = time.monotonic()
        self.gone_reason = ""
        self._setup: list[Any] = []
        self._new = [start(slot) for slot in range(number)]

    def open(self, setup: Any) -> None:
        """Give the setup to all slots (actors that train trials), also to those that start later.

        Args:
            setup: Ray reference to the ``SlotSetup`` (features, listed frames and splits).
        """
        self._setup = [setup]
        for slot, actor in enumerate(self._new):
            self._begin(slot, actor)
        self._new = []

    def take(self) -> int | None:
        """Return the number of a free slot (actor that trains trials); None while no slot is free.

        The slot is busy until ``release`` is called.
        """
        for slot in list(self._waiting):
            self._look_at(slot)
        if self._waiting and time.monotonic() - self._said >= SAY_EVERY_SECONDS:
            self._said = time.monotonic()
            self._say(self._why_waiting(*self._waiting))
        return self._free.pop(0) if self._free else None

    def actor(self, slot: int) -> ActorHandle[Any]:
        """Return the Ray actor of a slot, given the slot's number."""
        return self._up[slot].actor

    def release(self, slot: int) -> None:
        """Mark a busy slot (actor that trains trials) as free again.

        Args:
            slot: Number of the slot.
        """
        self._free.append(slot)

    def placed(self, slot: int, placement_group: str) -> None:
        """Record the placement group of a slot's DDP workers, which have started or started again.

        Args:
            slot: Number of the slot.
            placement_group: Ray's id of the placement group, in hexadecimal digits.
        """
        self._up[slot].placement_group = placement_group

    def lose(self, slot: int, replace: bool = True) -> None:
        """Kill a slot (actor that trains trials), and start another one in its place.

        Args:
            slot: Number of the slot.
            replace: False to start no other one.
        """
        self._kill(self._up.pop(slot))
        if replace:
            self._begin(slot, self._start(slot))

    @property
    def gone(self) -> bool:
        """True if no slot is running and none is starting; ``gone_reason`` has the reason."""
        return not self._waiting and not self._up

    def stop(self, when: Stop) -> None:
        """Request that all slots (actors that train trials) stop their trials.

        Args:
            when: Urgency: after the current epoch, or at once.
        """
        for slot in [*self._up.values(), *self._waiting.values()]:
            slot.actor.stop.remote(when)

    def close(self) -> None:
        """End all slots (actors that train trials); their CPUs and GPUs are free afterwards."""
        self.stop(Stop.NOW)
        for slot in self._waiting.values():
            self._kill(slot)
        closing: list[Any] = [slot.actor.close.remote() for slot in self._up.values()]
        if closing:
            ray.wait(closing, num_returns=len(closing), timeout=CLOSE_SECONDS)
        for slot in self._up.values():
            self._kill(slot)
        self._waiting, self._up, self._free = {}, {}, []

    def _begin(self, slot: int, actor: ActorHandle[Any]) -> None:
        self._waiting[slot] = _Slot(actor, actor.ready.remote(self._setup), time.monotonic())

    def _look_at(self, number: int) -> None:
        slot = self._waiting[number]
        if ray.wait([slot.ready], timeout=0)[0]:
            del self._waiting[number]
            try:
                slot.placement_group = ray.get(slot.ready)
            except RayError as error:
                if self._late(slot):
                    self._too_late(number, slot)
                else:
                    cause = error.cause if isinstance(error, RayTaskError) else error
                    self._give_up(slot, f"slot {number} did not start: {in_one_line(cause)}")
                return
            self._up[number] = slot
            self._free.append(number)
        elif self._late(slot, GRACE_SECONDS if self._resources.workers_per_trial > 1 else 0):
            del self._waiting[number]
            self._too_late(number, slot)

    def _late(self, slot: _Slot, grace_seconds: float = 0) -> bool:
        limit = self._resources.start_timeout_minutes * 60 + grace_seconds
        return time.monotonic() - slot.since > limit

    def _too_late(self, number: int, slot: _Slot) -> None:
        minutes = self._resources.start_timeout_minutes
        why = self._why_waiting(number)
        self._give_up(slot, f"{why}: given up after {minutes:g} minutes")

    def _give_up(self, slot: _Slot, why: str) -> None:
        self._kill(slot)
        self.gone_reason = why
        self._say(why)

    def _why_waiting(self, *slots: int) -> str:
        """Return a sentence with the CPUs and GPUs that waiting slots need, and the free ones."""
        r = self._resources
        gpus = f" and {r.gpus_per_worker:g} GPUs" if r.gpus_per_worker else ""
        need = f"{r.workers_per_trial} x ({r.cpus_per_worker} CPUs{gpus})"
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        have: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        there = ", ".join(
            f"{free.get(kind, 0):g} of {have.get(kind, 0):g} {kind}s"
            for kind in ("CPU", "GPU")
            if kind == "CPU" or r.gpus_per_worker
        )
        names = ", ".join(map(str, slots))
        return f"slot {names} waits for {need}; free in the cluster: {there} (see `ray status`)"

    def _kill(self, slot: _Slot) -> None:
        ray.kill(slot.actor)
        if slot.placement_group:
            # Ray does not remove the placement group of a Train run whose controller was killed.
            remove_placement_group(
                PlacementGroup(ray.PlacementGroupID.from_hex(slot.placement_group))
            )
