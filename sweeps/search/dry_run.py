"""Dry run of a sweep: its plan, and what it will take, before anything starts."""

from pathlib import Path

from sweeps.cluster.capacity import concurrent_trials, this_machine
from sweeps.cluster.connection import LOCAL, connect
from sweeps.planning.cost_table import describe_cost
from sweeps.planning.describe import describe
from sweeps.planning.disk import DiskNeed, describe_disk, planned_need
from sweeps.planning.plan import Plan
from sweeps.search.batch_timer import NoSlot, slot_timer, time_configs, time_here


def print_plan(plan: Plan, slots: int, folder: Path, need: DiskNeed) -> None:
    """Print the plan of a sweep and its need of disk space.

    Args:
        plan: The search file, checked against the dataset.
        slots: Number of trials that train at the same time.
        folder: The run folder, which need not exist.
        need: Most disk space that the sweep needs.
    """
    print(describe(plan, slots))
    print(describe_disk(plan, slots, folder, need))
    _, gpus = this_machine()
    if gpus and not plan.file.resources.gpus_per_worker:
        print(f"  note      resources.gpus_per_worker = 0 uses none of this machine's {gpus} GPUs")


def print_dry_run(plan: Plan, address: str, folder: Path, adopted: int) -> None:
    """Print the plan of a sweep, the times of a few configs' batches, and what the sweep will take.

    Where a cluster is named, batches are timed on a slot of it, else in this process.

    Args:
        plan: The search file, checked against the dataset.
        address: Address of a running Ray cluster, or ``local`` if the sweep would start Ray itself.
        folder: The run folder, which need not exist.
        adopted: Largest number of trials that the sweep will take over from another one.

    Raises:
        InputError: If no cluster answers at the address, or no trial fits on it or on this machine.
    """
    resources, trials = plan.file.resources, plan.file.search.trials
    need = planned_need(plan, folder, adopted)
    if address == LOCAL:
        slots = concurrent_trials(resources, trials, [this_machine()])
        print_plan(plan, slots, folder, need)
        print(describe_cost(plan, time_configs(plan, time_here), slots, _here(plan)))
        return
    with connect(address) as cluster:
        slots = concurrent_trials(resources, trials, cluster.nodes, cluster.autoscaler)
        print_plan(plan, slots, folder, need)
        where = f"on a slot of the cluster at {address}"
        try:
            timed = time_configs(plan, slot_timer(resources))
        except NoSlot as error:
            where = f"{_here(plan)}, because {error}"
            timed = time_configs(plan, time_here)
        print(describe_cost(plan, timed, slots, where, local=False))


def _here(plan: Plan) -> str:
    threads = plan.file.resources.cpus_per_worker
    kind = "GPU" if plan.file.resources.gpus_per_worker and this_machine()[1] else "CPU"
    return f"here, on this machine's {kind} with {threads} thread{'s' if threads > 1 else ''}"
