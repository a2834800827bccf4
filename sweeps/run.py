"""Run a sweep: from a search file to a fused model, its scores and a submission.

python sweeps/run.py --space search.yaml [--dry-run] [--yes] [--fresh] [--retry-failed]
                     [--address ADDRESS] [--from RUN] [path=value ...]

Each trailing word sets the value at a path (key with dots). A path whose first word is a key of the
search file sets a value of this file (``data=DIR search.trials=4``). Any other path sets a value in
the config of all trials, which then no longer vary it (``encoder=gru``). The same command continues
a sweep that was stopped, and extends a finished one if ``search.trials`` is larger than before.
"""

import argparse
import functools
from collections.abc import Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path

from mtl.dataset import Dataset
from mtl.errors import InputError
from sweeps.cli.arguments import add_address_argument, add_overrides_argument, make_parser
from sweeps.cli.question import on_terminal
from sweeps.cli.run_program import run_program
from sweeps.cluster.capacity import concurrent_trials, this_machine
from sweeps.cluster.connection import LOCAL, Cluster, choose_address, connect
from sweeps.data.open_data import open_data
from sweeps.fusion.anytime import AnytimeFusion
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.compose import compose, signature
from sweeps.planning.disk import disk_need
from sweeps.planning.plan import Plan, make_plan
from sweeps.planning.space import Space
from sweeps.planning.sweep_time import LONG_SECONDS, longest_seconds
from sweeps.results.finish import finish
from sweeps.search.budget import Limits, too_late
from sweeps.search.dry_run import print_dry_run, print_plan
from sweeps.search.earlier_points import best_points
from sweeps.search.live_table import LiveTable
from sweeps.search.training_clock import TrainingClock
from sweeps.search.warm_start import read_earlier, take_over
from sweeps.search_file import SearchFile, load
from sweeps.storage.driver_lock import DriverLock
from sweeps.storage.kept_weights import KeptWeights
from sweeps.storage.run_folder import (
    TRAINING_SECONDS,
    check_run_folder,
    fresh_name,
    record_start,
    recorded_points,
)
from sweeps.study import Refit, SweepStudy

RUNS = Path("runs")


def main(argv: Sequence[str] | None = None) -> int:
    """Run or continue a sweep from the command line; return the program's exit code.

    Args:
        argv: Words of the command line after the program's name; None for those of this process.
    """
    words = _arguments(argv)
    file = _load(words)
    dataset = open_data(file.data)
    folder = RUNS / file.name
    resumed = _is_resumed(folder, file, dataset, words.dry_run)
    points = recorded_points(folder) if resumed else {}
    earlier, notes = None, list[str]()
    if words.earlier and str(words.earlier.resolve()) not in points:
        earlier = read_earlier(words.earlier, file, dataset, folder)
        if not earlier.same_data:
            known = list(chain(*points.values()))
            best, notes = best_points(earlier, Space(file), dataset, known)
            points |= {str(earlier.folder.resolve()): best} if best else {}
    file = file.with_first(points)
    plan = make_plan(file, dataset)
    for path, taken in points.items():
        print(f"{path} was trained on other data: {len(taken)} of its best configs come first")
    for note in notes:
        print(note)
    address = choose_address(words.address)
    slots = 0
    if address == LOCAL:
        slots = concurrent_trials(file.resources, file.search.trials, [this_machine()])
    if words.dry_run:
        taken_over = earlier.trials if earlier and earlier.same_data else ()
        print_dry_run(plan, address, folder, len(taken_over))
        return 0
    _check_time(file, resumed)
    if address != LOCAL and not folder.exists():
        _check_fits(file, address)
    with closing(DriverLock(folder)) as lock:
        record_start(folder, file, dataset, resumed, points)
        study = open_study(folder, plan, lock)
        fusion = SweepFusion(
            folder,
            dataset,
            plan.listing,
            plan.parts,
            file.fusion,
            file.search.metric,
            study.record.knows,
        )
        study.refit_members = functools.partial(_refit_members, fusion, file.refit.folds)
        if earlier and earlier.same_data:
            print(take_over(earlier, plan, study, folder))
        kept_weights = KeptWeights(folder, study.record.outcomes())
        if words.retry_failed:
            print(f"{study.record.retry_failed()} failed trials are trained again")
        clock = TrainingClock(folder / TRAINING_SECONDS)
        need = disk_need(plan, study.most_trials, study.refits)
        if slots:
            print_plan(plan, slots, folder, need)
        limits = Limits(file.budget, folder, study, kept_weights, clock, need)
        halted = limits.spent()
        if not (study.done or halted):
            ask = on_terminal() and not words.yes
            halted = _search(plan, limits, fusion, address, resumed, ask)
        return finish(plan, limits, fusion, halted)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser(__doc__)
    parser.add_argument("--space", required=True, metavar="FILE", help="the search file")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the plan, the time of a few batches and what the sweep will take; then stop",
    )
    parser.add_argument(
        "--yes", action="store_true", help="do not ask before a sweep of more than four hours"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start anew as NAME-2 (-3 ...) and keep the old sweep",
    )
    parser.add_argument("--retry-failed", action="store_true", help="train failed trials again")
    parser.add_argument(
        "--from",
        dest="earlier",
        type=Path,
        metavar="RUN",
        help="take over the finished trials in another sweep's folder that are in this space, or, "
        "if it was trained on other data, train its best configs first",
    )
    add_address_argument(parser)
    add_overrides_argument(
        parser,
        "override of the search file (search.trials=4) or, where the first word of the path is no "
        "key of the file, of every trial's config (encoder=gru)",
    )
    return parser.parse_intermixed_args(argv)


def _load(words: argparse.Namespace) -> SearchFile:
    file = load(words.space, words.overrides)
    if not (words.fresh and (RUNS / file.name).exists()):
        return file
    name = fresh_name(RUNS, file.name)
    print(f"starting a new sweep {name}: continue it with name={name} and without --fresh")
    return load(words.space, [*words.overrides, f"name={name}"])


def _is_resumed(folder: Path, file: SearchFile, dataset: Dataset, dry_run: bool) -> bool:
    """Return True if the run folder holds this sweep already; raise InputError if it holds another.

    A dry run writes nothing, so it accepts a folder that holds another sweep.
    """
    try:
        return check_run_folder(folder, file, dataset)
    except InputError:
        if dry_run:
            return False
        raise


def _check_time(file: SearchFile, resumed: bool) -> None:
    """Raise InputError if a new sweep has no time left to train before ``budget.until``.

    A resumed sweep is accepted, since its finished trials can still be fused.
    """
    late = too_late(file.budget)
    if late and not resumed:
        raise InputError(f"{file.source}: {late}")


def _check_fits(file: SearchFile, address: str) -> None:
    """Raise InputError if a new sweep needs more CPUs or GPUs than the cluster has.

    The check comes before the run folder is made.
    """
    with connect(address) as cluster:
        concurrent_trials(file.resources, file.search.trials, cluster.nodes, cluster.autoscaler)


def _refit_members(fusion: SweepFusion, folds: int) -> list[Refit]:
    """Return the refits: each fused trial, to be trained again with each fold held out."""
    members = fusion.member_signatures()
    return [Refit(member, fold, folds) for fold in range(folds) for member in members]


def open_study(folder: Path, plan: Plan, lock: DriverLock) -> SweepStudy:
    """Open the Optuna studies that hold the sweep's trials, or create missing studies.

    Args:
        folder: The run folder.
        plan: The search file, checked against the dataset.
        lock: The lock of the run folder; closing the study releases it.
    """
    file = plan.file
    combinations = plan.space.comparisons()
    return SweepStudy(
        folder,
        name=file.name,
        combinations=combinations,
        labels=[plan.space.label(combination) for combination in combinations],
        trials=file.search.trials,
        sampler=file.search.sampler,
        seed=file.search.seed,
        pruner=file.pruner,
        sample=plan.space.sample,
        first=plan.first.parameters,
        sign=lambda overrides: signature(compose(overrides), plan.dataset.hash),
        seeds=file.compare.seeds,
        folds=file.refit.folds,
        lock=lock,
    )


def _search(
    plan: Plan, limits: Limits, fusion: SweepFusion, address: str, resumed: bool, ask: bool
) -> str | None:
    """Train the sweep's trials with Ray; return the reason if the search ends early, else None.

    The time of a new sweep that may be long is estimated while its first trial trains. If ``ask``
    is True and the time is above four hours, the user of the terminal is asked to go on.
    """
    file, study = plan.file, limits.study
    with connect(address) as cluster:
        # Ray must be imported after its settings are made.
        import ray

        from sweeps.data.ray_data import kill_leftover_actors
        from sweeps.data.sharding import make_shards
        from sweeps.search.batch_timer import timer_beside
        from sweeps.search.searcher import StudySearcher
        from sweeps.search.start_estimate import StartEstimate
        from sweeps.search.tune_loop import search
        from sweeps.search.watcher import Watchers
        from sweeps.slots.pool import SlotPool
        from sweeps.slots.setup import SlotSetup
        from sweeps.slots.start import slot_starter

        anytime = AnytimeFusion(fusion)
        resources = file.resources
        number = concurrent_trials(resources, file.search.trials, cluster.nodes, cluster.autoscaler)
        if address != LOCAL:  # The number of slots is known only now.
            print_plan(plan, number, limits.folder, limits.need)
        _print_where(cluster, limits.folder, study, resumed)
        with LiveTable(study) as table, anytime.running(table.say):
            slots = SlotPool(slot_starter(file.name, resources), number, resources, table.say)
            listed = None if plan.all_frames else plan.listing
            shards = make_shards(plan.dataset, plan.feature_sets, listed)
            if address == LOCAL:
                kill_leftover_actors()
            setup = SlotSetup(
                shards, plan.listing, plan.parts, resources.cpus_per_worker, plan.folds
            )
            slots.open(ray.put(setup))
            # An estimate takes a process for some seconds, which a short sweep would feel.
            if resumed or longest_seconds(plan, number) < LONG_SECONDS:
                return search(StudySearcher(plan, limits, slots, table, anytime.results_changed))
            timer, where = timer_beside(plan, address)
            estimate = StartEstimate(plan, number, timer, where, table.say, ask)
            watchers = Watchers(table, estimate)
            searcher = StudySearcher(plan, limits, slots, watchers, anytime.results_changed)
            with estimate.running(searcher.interrupt):
                return search(searcher)


def _print_where(cluster: Cluster, folder: Path, study: SweepStudy, resumed: bool) -> None:
    if resumed:
        counts = study.record.counts().items()
        states = ", ".join(f"{number} {state}" for state, number in counts) or "no trial"
        print(f"going on with {folder}: {states}")
    print(f"Ray's dashboard: {cluster.dashboard}")
    print(f"trials:          optuna-dashboard {folder / 'study.journal'}")


if __name__ == "__main__":
    run_program(main)
