"""What a sweep leaves at its end: the best trials fused, everything written, the scores printed."""

from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from mtl.whole_files import write_whole
from sweeps.compare import compare_sweep
from sweeps.fuse import Member, fuse_sweep
from sweeps.job import INTERRUPTED
from sweeps.limits import Limits
from sweeps.plan import Plan
from sweeps.report import gain, last_value, leaderboard, ran_side_by_side, score_table
from sweeps.study import SweepStudy

EXIT_INTERRUPTED = 130  # as a shell reports Ctrl-C


def finish(plan: Plan, limits: Limits, halted: str | None) -> int:
    """Fuse what there is, write and print the results; the program's exit code."""
    folder, study = limits.folder, limits.study
    if study.done:
        halted = None
    members = _members(folder, study)
    scores = None
    if members:
        fusion = plan.file.fusion
        scores = fuse_sweep(folder, plan.dataset, plan.listing, plan.parts, members, fusion)
    remarks = _remarks(plan, study, halted)
    (folder / "report").mkdir(exist_ok=True)
    report = leaderboard(plan.file.name, study.trials(), scores, remarks)
    write_whole(folder / "report" / "leaderboard.md", report.encode())
    _print_results(folder, scores, remarks)
    compared = compare_sweep(folder, plan, study) if study.done else None
    if compared:
        print(f"\n{compared}\ncomparison:  {folder / 'report' / 'comparison.md'}")
    if halted == INTERRUPTED:
        return EXIT_INTERRUPTED
    as_planned = study.done or (halted is not None and halted == limits.spent())
    return 0 if as_planned and scores else 1


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


def _remarks(plan: Plan, study: SweepStudy, halted: str | None) -> list[str]:
    counts = ", ".join(f"{number} {state}" for state, number in study.counts().items())
    remarks = [f"trials: {counts or 'none'}", *(f"lost: {sentence}" for sentence in plan.lost)]
    if halted:
        remarks.append(f"ended early: {halted}")
    if plan.file.search.confirm == 0:
        remarks.append("search.confirm is 0: scores are selected on the scored videos")
    if ran_side_by_side(study.trials()):
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
