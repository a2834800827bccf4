"""End of a sweep: trials are fused, results written and scores printed."""

from collections import Counter
from pathlib import Path
from typing import Any

from mtl.whole_files import write_atomically
from sweeps.fusion.refit import score_refit
from sweeps.fusion.report import refit_summary, summary
from sweeps.fusion.sweep import SweepFusion
from sweeps.planning.plan import Plan
from sweeps.records.messages import INTERRUPTED
from sweeps.results.comparison import compare_sweep
from sweeps.results.leaderboard import collapse_remarks, leaderboard, ran_side_by_side
from sweeps.search.budget import Limits
from sweeps.storage.ranking import BEST_TRIALS_PER_TASK
from sweeps.storage.run_folder import REPORT, SUBMISSION
from sweeps.storage.trial_folder import SCORES
from sweeps.study.index import ORIGIN

EXIT_INTERRUPTED = 130
"""Exit code of a program that was stopped by Ctrl-C, as shells report it."""


def finish(plan: Plan, limits: Limits, fusion: SweepFusion, halted: str | None) -> int:
    """Fuse the trials of a sweep that has ended, then write and print the results.

    Args:
        plan: The sweep's plan.
        limits: The sweep's budget, run folder and Optuna studies.
        fusion: Fusion of the sweep's trials.
        halted: Reason why the sweep ended early; None if it ended as planned.

    Returns:
        Exit code of the program: 0 if the sweep ended as planned and a fused model was written, 130
        after an interruption, otherwise 1.
    """
    folder, study = limits.folder, limits.study
    if study.done:
        halted = None
    scores = fusion.finish()
    remarks = _remarks(plan, limits, halted)
    (folder / REPORT).mkdir(exist_ok=True)
    board = leaderboard(plan.file.name, study.record.trials(), remarks)
    write_atomically(folder / REPORT / "leaderboard.md", board.encode())
    _print_results(folder, scores, remarks)
    if scores and plan.folds and study.done:
        refit = score_refit(folder, plan, scores)
        missing = (
            "refit: not scored, because a fused trial failed or was not trained on a fold (see the "
            "leaderboard)"
        )
        print(refit_summary(refit) if refit else missing)
    comparison = compare_sweep(folder, plan, study) if study.done else None
    if comparison:
        print(f"\n{comparison}\ncomparison:  {folder / REPORT / 'comparison.md'}")
    if halted == INTERRUPTED:
        return EXIT_INTERRUPTED
    as_planned = study.done or (halted is not None and limits.planned(halted))
    return 0 if as_planned and scores else 1


def _remarks(plan: Plan, limits: Limits, halted: str | None) -> list[str]:
    """Return sentences about a sweep for its reports, such as the number of trials by state."""
    study = limits.study
    counts = ", ".join(f"{number} {state}" for state, number in study.record.counts().items())
    remarks = [f"trials: {counts or 'none'}", *collapse_remarks(study.record.trials())]
    remarks += [f"missing: {sentence}" for sentence in plan.missing_features]
    adopted = Counter(
        t.user_attrs[ORIGIN].partition(":")[0]
        for trials in study.record.trials().values()
        for t in trials
        if ORIGIN in t.user_attrs
    )
    remarks += [f"{number} of these taken over from {run}" for run, number in adopted.items()]
    if limits.kept_weights.keep < BEST_TRIALS_PER_TASK:
        remarks.append(
            f"disk space: each task's best {limits.kept_weights.keep} trials kept their weights "
            f"and were fused, instead of {BEST_TRIALS_PER_TASK}"
        )
    if halted:
        remarks.append(f"ended early: {halted}")
    if plan.file.search.confirm == 0:
        remarks.append("search.confirm is 0: scores are selected on the scored videos")
    if ran_side_by_side(study.record.trials()):
        remarks.append(
            "order-dependent: trials ran side by side, so a repeated sweep may propose others"
        )
    return remarks


def _print_results(folder: Path, scores: dict[str, Any] | None, remarks: list[str]) -> None:
    print()
    for remark in remarks:
        print(remark)
    if scores is None:
        print(f"nothing to fuse: no trial of {folder} has predictions")
        return
    print(f"\n{summary(scores)}\n")
    if (folder / SUBMISSION).exists():
        print(f"submission:  {folder / SUBMISSION}")
    print(f"scores:      {folder / SCORES}")
    print(f"fusion:      {folder / REPORT / 'fusion.html'}")
    print(f"leaderboard: {folder / REPORT / 'leaderboard.md'}")
