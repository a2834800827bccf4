"""Text for the user: timed configs, and a sweep's time, memory and disk space."""

from collections.abc import Sequence

import numpy as np

from mtl.config import TrialConfig
from mtl.optimisation.memory import machine_bytes
from sweeps.planning.disk import gigabytes
from sweeps.planning.plan import Plan
from sweeps.planning.sweep_time import SweepTime, estimate
from sweeps.planning.time_estimate import TimedConfig

PROCESS_BYTES = 4 * 10**8
"""Memory of a process that has imported torch, as proportional set size (docs/LOG.md)."""
BYTES_PER_PARAMETER = 16
"""Memory of a parameter in training: its value, its gradient and Adam's two moments."""


def describe_cost(
    plan: Plan, timed: Sequence[TimedConfig], slots: int, where: str, local: bool = True
) -> str:
    """Return the table of timed configs, and below it the sweep's time and memory.

    Args:
        plan: The search file, checked against the dataset.
        timed: Configs with the times of their batches.
        slots: Number of trials that train at the same time.
        where: Place at which the batches were timed, such as ``here, on this machine's CPU``.
        local: True if all trials train on this machine, whose memory must then suffice.
    """
    name_width = max(len("configuration"), *(len(config_name(t.sized.config)) for t in timed))
    head = f"{'configuration':{name_width}}  parameters     a batch    an epoch"
    rows = [_row(each, name_width) for each in timed]
    lines = [f"  timed     {where}", f"            {head}", *(f"            {row}" for row in rows)]
    return "\n".join([*lines, _time(plan, timed, slots), *_memory(plan, timed, slots, local)])


def _time(plan: Plan, timed: Sequence[TimedConfig], slots: int) -> str:
    """Return the line on the time that a sweep takes."""
    time = estimate(plan, timed, slots)
    if time is None:
        return "  time      unknown, because no configuration could be timed"
    at_once = "1 slot" if slots == 1 else f"{slots} slots"
    refits = ", without the refits on folds" if plan.folds else ""
    return f"  time      {duration_range(time)} on {at_once}{refits}"


def duration_range(time: SweepTime) -> str:
    """Return a time as text, such as ``about 2.1 hours with pruning, 5.0 hours without``."""
    about, most = duration(time.expected_seconds), duration(time.most_seconds)
    limit = f" (limit {time.limit})" if time.limit else ""
    return f"about {about}{'' if about == most else f' with pruning, {most} without'}{limit}"


def duration(seconds: float) -> str:
    """Return a duration as text with two digits, such as ``2.1 hours`` or ``31 minutes``."""
    size, unit = next(
        (size, unit)
        for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes"), (1, "seconds"))
        if seconds >= 2 * size or size == 1
    )
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"


def config_name(config: TrialConfig) -> str:
    """Return a short name of a config, such as ``gru 64x2 share_encoder, window 128``."""
    parameters = config.encoder.parameters
    size = "x".join(str(parameters[key]) for key in ("hidden", "layers") if key in parameters)
    name = " ".join(filter(None, (config.encoder.name, size, config.framework.name)))
    return f"{name}, window {config.sequence.window_frames}"


def _row(timed: TimedConfig, name_width: int) -> str:
    name = f"{config_name(timed.sized.config):{name_width}}  {timed.sized.parameters:10,}"
    if timed.time is None:
        return f"{name}  not timed: {timed.failure}"
    batch, work = timed.time, timed.work
    epoch = work.training_steps * batch.training_seconds
    epoch += work.select_steps * batch.prediction_seconds
    return f"{name}  {_short(batch.training_seconds):>10}  {_short(epoch):>10}"


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _memory(plan: Plan, timed: Sequence[TimedConfig], slots: int, local: bool) -> list[str]:
    """Return the line on memory, and a note if the trials train here and this machine has less."""
    peak = max((each.time.memory_bytes for each in timed if each.time), default=0)
    peak = max(peak, BYTES_PER_PARAMETER * max(plan.parameters))
    workers = slots * plan.file.resources.workers_per_trial
    features = features_bytes(plan)
    gpu = plan.file.resources.gpus_per_worker > 0
    kind = "of a GPU's memory " if gpu else ""
    # Of a config that was not timed only the memory of its parameters is known.
    bound = "at least" if any(each.time is None for each in timed) else "at most"
    lines = [
        f"  memory    {gigabytes(peak)} {kind}{bound} for the training of a worker, beside "
        f"{gigabytes(PROCESS_BYTES)} for its process; {gigabytes(features)} of features once on "
        "each node"
    ]
    total = features + workers * (PROCESS_BYTES + (0 if gpu else peak))
    if plan.file.resources.workers_per_trial > 1:
        lines.append(
            "  note      the share of one worker was timed, without the exchange of gradients"
        )
    if local and total > machine_bytes():
        lines.append(
            f"  note      {workers} workers need {gigabytes(total)}, this machine has "
            f"{gigabytes(machine_bytes())}: lower resources.concurrent_trials to train on it"
        )
    return lines


def features_bytes(plan: Plan) -> int:
    """Return the size of the feature sets in the object store of a node.

    Args:
        plan: The search file, checked against the dataset.
    """
    total = 0
    for name in plan.feature_sets:
        entry = plan.dataset.info["features"][name]
        rows = sum(sum(part["group_rows"]) for part in entry["parts"])
        rows = rows if plan.all_frames else min(rows, len(plan.listing.frame))
        total += rows * plan.dataset.width(name) * np.dtype(entry["dtype"]).itemsize
    return total
