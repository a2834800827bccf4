"""A sweep, from a search file to a submission.

python sweeps/run.py --space search.yaml [--dry-run] [--fresh] [--retry-failed] [--address ADDRESS]
                     [--from RUN] [path=value ...]

Trailing words are overrides: a path whose first word is a key of the search file addresses the file
(``data=DIR search.trials=4``), any other the trial config (``encoder=gru``), and leaves the space.
The same command goes on with a sweep that was stopped, and extends one by more trials.
"""

import argparse
import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from mtl.config import TrialConfig
from mtl.errors import InputError
from sweeps.cli.run_program import run_program
from sweeps.cluster.capacity import concurrent_trials, this_machine
from sweeps.cluster.connection import LOCAL, Cluster, choose_address, connect
from sweeps.data.open_data import open_data
from sweeps.fusion.anytime import AnytimeFusion
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.compose import compose, signature
from sweeps.planning.describe import describe
from sweeps.planning.plan import Plan, make_plan
from sweeps.results.finish import finish
from sweeps.search.budget import Limits, too_late
from sweeps.search.live_table import Progress
from sweeps.search.training_clock import TrainingClock
from sweeps.search.warm_start import read_earlier, take_over
from sweeps.search_file import SearchFile, load
from sweeps.storage.driver_lock import DriverLock
from sweeps.storage.kept_weights import BEST_TRIALS_PER_TASK, KeptWeights
from sweeps.storage.run_folder import check_run_folder, fresh_name, open_run_folder
from sweeps.study import Proposal, Refit, SweepStudy

RUNS = Path("runs")
CLOCK = "training_seconds.json"


def main(argv: Sequence[str] | None = None) -> int:
    """The program."""
    words = _arguments(argv)
    file = _load(words)
    dataset = open_data(file.data)
    plan = make_plan(file, dataset)
    address = choose_address(words.address)
    slots = None
    if address == LOCAL:
        slots = concurrent_trials(file.resources, file.search.trials, [this_machine()])
    folder = RUNS / file.name
    if not words.dry_run:
        resumed = check_run_folder(folder, file, dataset)
        _check_time(file, resumed)
    earlier = read_earlier(words.earlier, file, dataset, folder) if words.earlier else None
    if address == LOCAL or words.dry_run:
        print(describe(plan, slots))
        _say_what_is_idle(file)
    if words.dry_run:
        return 0
    if address != LOCAL and not folder.exists():
        _check_fits(file, address)
    lock = DriverLock(folder)
    resumed = open_run_folder(folder, file, dataset)
    fusion = SweepFusion(
        folder,
        dataset,
        plan.listing,
        plan.parts,
        file.fusion,
        file.search.metric,
        known=lambda signature: study.knows(signature),
    )
    folds = file.refit.folds
    refits = functools.partial(_refits, fusion, folds) if folds else None
    study = open_study(folder, plan, lock, refits)
    try:
        if earlier:
            print(take_over(earlier, plan, study, folder))
        kept_weights = KeptWeights(folder / "trials", _ended(study), BEST_TRIALS_PER_TASK)
        if words.retry_failed:
            print(f"{study.retry_failed()} failed trials are trained again")
        limits = Limits(file.budget, folder, study, kept_weights, TrainingClock(folder / CLOCK))
        halted = limits.spent()
        if not (study.done or halted):
            halted = _search(plan, limits, fusion, address, resumed)
        return finish(plan, limits, fusion, halted)
    finally:
        study.close()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", required=True, metavar="FILE", help="the search file")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew as NAME-2 (-3 ...) beside the old sweep"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="train the trials again that failed"
    )
    parser.add_argument(
        "--from",
        dest="earlier",
        type=Path,
        metavar="RUN",
        help="start with the finished trials of another sweep's folder, as far as the space agrees",
    )
    parser.add_argument(
        "--address", help="a running Ray cluster; RAY_ADDRESS, else this machine by default"
    )
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    return parser.parse_intermixed_args(argv)


def _load(words: argparse.Namespace) -> SearchFile:
    file = load(words.space, words.overrides)
    if not (words.fresh and (RUNS / file.name).exists()):
        return file
    name = fresh_name(RUNS, file.name)
    print(f"beginning anew as {name}: go on with it by name={name}, without --fresh")
    return load(words.space, [*words.overrides, f"name={name}"])


def _say_what_is_idle(file: SearchFile) -> None:
    _, gpus = this_machine()
    if gpus and not file.resources.gpus_per_worker:
        print(f"  note      resources.gpus_per_worker = 0 uses none of this machine's {gpus} GPUs")


def _check_time(file: SearchFile, resumed: bool) -> None:
    """Refuse to begin what cannot train; a sweep that was begun is fused at least."""
    late = too_late(file.budget)
    if late and not resumed:
        raise InputError(f"{file.source}: {late}")


def _check_fits(file: SearchFile, address: str) -> None:
    """Refuse what a cluster cannot hold before a folder is made for it."""
    with connect(address) as cluster:
        concurrent_trials(file.resources, file.search.trials, cluster.nodes, cluster.can_come)


def _refits(fusion: SweepFusion, folds: int) -> list[Refit]:
    """What is fused, with each fold held out."""
    members = fusion.used()
    return [Refit(member, fold, folds) for fold in range(folds) for member in members]


def open_study(
    folder: Path,
    plan: Plan,
    lock: DriverLock,
    refits: Callable[[], Sequence[Refit]] | None = None,
) -> SweepStudy:
    """The sweep's record, under this driver's lock."""
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
        sign=lambda overrides: signature(compose(overrides), plan.dataset.hash),
        seeds=file.compare.seeds,
        folds=file.refit.folds,
        refits=refits,
        lock=lock,
    )


def _search(
    plan: Plan, limits: Limits, fusion: SweepFusion, address: str, resumed: bool
) -> str | None:
    """Train until the study is done; why it ended before, or None."""
    file, study = plan.file, limits.study
    with connect(address) as cluster:
        # Ray must be imported after its settings are made.
        import ray

        from sweeps.data.ray_data import end_helpers
        from sweeps.data.sharding import make_shards
        from sweeps.search.searcher import Rules, StudySearcher
        from sweeps.search.tune_loop import search
        from sweeps.slots.pool import SlotPool
        from sweeps.slots.setup import SlotSetup
        from sweeps.slots.start import slot_starter

        anytime = AnytimeFusion(fusion)

        def ended(signature: str, failed: bool) -> None:
            limits.kept_weights.add(signature, failed)
            anytime.due()

        resources = file.resources
        number = concurrent_trials(resources, file.search.trials, cluster.nodes, cluster.can_come)
        if address != LOCAL:  # how many run at once is known only now
            print(describe(plan, number))
        _say_where(cluster, limits.folder, study, resumed)
        rules = Rules(
            sweep=file.name,
            folder=limits.folder.resolve(),
            metric=file.search.metric,
            restarts=file.budget.restarts,
            rungs=plan.rungs,
            compose=compose,
            describe=lambda proposal, config: _trial_yaml(plan, proposal, config),
            halt=limits.halt,
            spent=limits.spent,
            late=limits.late,
            ended=ended,
        )
        with Progress(lambda: study.planned, study.ended) as progress, anytime.saying(progress.say):
            slots = SlotPool(slot_starter(file.name, resources), number, resources, progress.say)
            listed = None if plan.all_frames else plan.listing
            shards = make_shards(plan.dataset, plan.feature_sets, listed)
            if address == LOCAL:
                end_helpers()
            setup = SlotSetup(
                shards, plan.listing, plan.parts, resources.cpus_per_worker, plan.folds
            )
            slots.open(ray.put(setup))
            searcher = StudySearcher(study, slots, rules, limits.clock, progress)
            return search(searcher, plan.listing)


def _say_where(cluster: Cluster, folder: Path, study: SweepStudy, resumed: bool) -> None:
    if resumed:
        counts = ", ".join(f"{n} {state}" for state, n in study.counts().items()) or "no trial"
        print(f"going on with {folder}: {counts}")
    print(f"Ray's dashboard: {cluster.dashboard}")
    print(f"trials:          optuna-dashboard {folder / 'study.journal'}")


def _trial_yaml(plan: Plan, proposal: Proposal, config: TrialConfig) -> str:
    search, cpus = plan.file.search, plan.file.resources.cpus_per_worker
    alone = ["--data", plan.dataset.address, "--confirm", search.confirm, "--seed", search.seed]
    held_out = [] if proposal.fold is None else ["--fold", f"{proposal.fold}of{len(plan.folds)}"]
    words = shlex.join(map(str, [*alone, "--cpus", cpus, *held_out, *proposal.overrides]))
    head = f"# {proposal.study} {proposal.number}, alone: python sweeps/train.py {words}\n"
    return head + yaml.safe_dump(config.plain(), sort_keys=False)


def _ended(study: SweepStudy) -> dict[str, bool]:
    """The trials that have ended, by signature, and whether they failed; one that failed and is
    being trained again has not.
    """
    trials = [trial for found in study.trials().values() for trial in found]
    running = {t.user_attrs["signature"] for t in trials if not t.state.is_finished()}
    failed = {t.user_attrs["signature"] for t in study.failures()}
    signatures = [t.user_attrs["signature"] for t in trials]
    return {signature: signature in failed for signature in signatures if signature not in running}


if __name__ == "__main__":
    run_program(main)
