"""A sweep, from a search file to a submission.

python sweeps/run.py --space search.yaml [--dry-run] [--address ADDRESS] [path=value ...]

Trailing words are overrides: a path whose first word is a key of the search file addresses the file
(``data=DIR search.trials=4``), any other the trial config (``encoder=gru``), and leaves the space.
The same command goes on with a sweep that was stopped, and extends one by more trials.
"""

import argparse
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import TrialState

from mtl.config import TrialConfig
from mtl.whole_files import write_whole
from sweeps.cli import run_program
from sweeps.cluster import (
    LOCAL,
    Cluster,
    choose_address,
    concurrent_trials,
    connect,
    this_machine,
)
from sweeps.compose import compose, signature
from sweeps.data import open_data
from sweeps.fuse import Member, fuse_sweep
from sweeps.job import INTERRUPTED
from sweeps.plan import Plan, describe, make_plan
from sweeps.progress import Progress
from sweeps.report import gain, last_value, leaderboard, score_table
from sweeps.run_folder import check_run_folder, open_run_folder
from sweeps.search_file import SearchFile, load
from sweeps.study import Proposal, SweepStudy
from sweeps.study.journal import DriverLock
from sweeps.weights import Shelf

EXIT_INTERRUPTED = 130  # as a shell reports Ctrl-C
KEEP_WEIGHTS = 25
FREE_BYTES = 5 * 10**8


def main(argv: Sequence[str] | None = None) -> int:
    """The program."""
    words = _arguments(argv)
    file = load(words.space, words.overrides)
    dataset = open_data(file.data)
    plan = make_plan(file, dataset)
    address = choose_address(words.address)
    slots = None
    if address == LOCAL:
        slots = concurrent_trials(file.resources, file.search.trials, [this_machine()])
    folder = Path("runs") / file.name
    if not words.dry_run:
        check_run_folder(folder, file, dataset)
    if address == LOCAL or words.dry_run:
        print(describe(plan, slots))
    if words.dry_run:
        return 0
    lock = DriverLock(folder)
    resumed = open_run_folder(folder, file, dataset)
    study = open_study(folder, plan, lock)
    try:
        halted = None if study.done else _search(plan, folder, study, address, resumed)
        return _finish(plan, folder, study, halted, side_by_side=slots != 1)
    finally:
        study.close()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--space", required=True, metavar="FILE", help="the search file")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--address", help="a running Ray cluster; RAY_ADDRESS, else this machine by default"
    )
    parser.add_argument("overrides", nargs="*", metavar="path=value")
    return parser.parse_intermixed_args(argv)


def open_study(folder: Path, plan: Plan, lock: DriverLock) -> SweepStudy:
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
        lock=lock,
    )


def _search(plan: Plan, folder: Path, study: SweepStudy, address: str, resumed: bool) -> str | None:
    """Train until the study is done; why it ended before, or None."""
    file = plan.file
    with connect(address) as cluster:
        # Ray must be imported after its settings are made.
        from ray.actor import ActorHandle

        from sweeps.search import Rules, StudySearcher, search
        from sweeps.shards import make_shards
        from sweeps.slots import start_slots

        slots = concurrent_trials(file.resources, file.search.trials, cluster.nodes)
        if address != LOCAL:  # how many run at once is known only now
            print(describe(plan, slots))
        _say_where(cluster, folder, study, resumed)
        listed = None if plan.all_frames else plan.listing
        shards = make_shards(plan.dataset, plan.feature_sets, listed)
        shelf = Shelf(folder / "trials", _ended(study), KEEP_WEIGHTS)

        def start(number: int) -> list[ActorHandle[Any]]:
            return start_slots(number, file.resources, shards, plan.listing, plan.parts)

        rules = Rules(
            sweep=file.name,
            folder=folder.resolve(),
            metric=file.search.metric,
            rungs=plan.rungs,
            compose=compose,
            describe=lambda proposal, config: _trial_yaml(plan, proposal, config),
            halt=lambda: _reason_to_halt(file, folder, study, shelf),
            ended=shelf.add,
            new_slot=lambda: next(iter(start(1)), None),
        )
        with Progress(file.search.trials, study.ended) as progress:
            up = start(slots)
            if not up:
                return "no slot could be placed: see `ray status`; the same command goes on"
            searcher = StudySearcher(study, up, rules, progress)
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
    words = shlex.join(map(str, [*alone, "--cpus", cpus, *proposal.overrides]))
    head = f"# {proposal.study} {proposal.number}, alone: python sweeps/train.py {words}\n"
    return head + yaml.safe_dump(config.plain(), sort_keys=False)


def _ended(study: SweepStudy) -> dict[str, bool]:
    """The trials that have ended, by signature, and whether they failed."""
    return {
        trial.user_attrs["signature"]: trial.state == TrialState.FAIL
        for trials in study.trials().values()
        for trial in trials
        if trial.state.is_finished()
    }


def _reason_to_halt(file: SearchFile, folder: Path, study: SweepStudy, shelf: Shelf) -> str | None:
    failures = study.failures()
    if len(failures) > file.budget.failures:
        last = failures[-1].user_attrs.get("reason")
        return (
            f"{len(failures)} trials failed, more than budget.failures = {file.budget.failures}; "
            f"the last: {last}; raise budget.failures to go on"
        )
    limit = file.budget.disk_gb
    if limit is not None and shelf.gb > limit:
        return f"{folder} holds {shelf.gb:.1f} GB, more than budget.disk_gb = {limit:g}: raise it"
    if shutil.disk_usage(folder).free < FREE_BYTES:
        return f"the disk of {folder} has less than {FREE_BYTES / 1e9:g} GB left: free some"
    return None


def _finish(
    plan: Plan, folder: Path, study: SweepStudy, halted: str | None, side_by_side: bool
) -> int:
    """Fuse what there is, write and print the results; the program's exit code."""
    if study.done:
        halted = None
    members = _members(folder, study)
    scores = None
    if members:
        steps = plan.file.fusion.steps
        scores = fuse_sweep(folder, plan.dataset, plan.listing, plan.parts, members, steps)
    remarks = _remarks(plan, study, halted, side_by_side)
    (folder / "report").mkdir(exist_ok=True)
    report = leaderboard(plan.file.name, study.trials(), scores, remarks)
    write_whole(folder / "report" / "leaderboard.md", report.encode())
    _print_results(folder, scores, remarks)
    if halted == INTERRUPTED:
        return EXIT_INTERRUPTED
    return 0 if study.done and scores else 1


def _members(folder: Path, study: SweepStudy) -> list[Member]:
    """The trials with predictions; one that repeats another is the other."""
    return [
        Member(trial.user_attrs["signature"], last_value(trial))
        for trials in study.trials().values()
        for trial in trials
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        and "twin_of" not in trial.user_attrs
        and (folder / "trials" / trial.user_attrs["signature"] / "predictions.parquet").exists()
    ]


def _remarks(plan: Plan, study: SweepStudy, halted: str | None, side_by_side: bool) -> list[str]:
    counts = ", ".join(f"{number} {state}" for state, number in study.counts().items())
    remarks = [f"trials: {counts or 'none'}", *(f"lost: {sentence}" for sentence in plan.lost)]
    if halted:
        remarks.append(f"ended early: {halted}")
    if plan.file.search.confirm == 0:
        remarks.append("search.confirm is 0: scores are selected on the scored videos")
    if side_by_side:
        remarks.append(
            "order-dependent: trials ran side by side, so another run may propose others"
        )
    return remarks


def _print_results(folder: Path, scores: dict[str, Any] | None, remarks: list[str]) -> None:
    print()
    for remark in remarks:
        print(remark)
    if scores is None:
        print(f"nothing to fuse: no trial of {folder} has predictions")
        return
    part = "confirm" if scores["confirm"] else "select"
    print(f"\n{score_table(scores, part)}\n\n{gain(scores, part)}\n")
    if (folder / "submission.txt").exists():
        print(f"submission:  {folder / 'submission.txt'}")
    print(f"scores:      {folder / 'scores.json'}")
    print(f"leaderboard: {folder / 'report' / 'leaderboard.md'}")


if __name__ == "__main__":
    run_program(main)
