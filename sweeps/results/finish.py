"""What a sweep leaves at its end: the best trials fused, everything written, the scores printed."""

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
from sweeps.results.leaderboard import leaderboard, ran_side_by_side
from sweeps.search.budget import Limits
from sweeps.study import SweepStudy
from sweeps.study.index import ORIGIN

EXIT_INTERRUPTED = 130  # as a shell reports Ctrl-C


def finish(plan: Plan, limits: Limits, fusion: SweepFusion, halted: str | None) -> int:
    """Fuse what there is, write and print the results; the program's exit code."""
    folder, study = limits.folder, limits.study
    if study.done:
        halted = None
    scores = fusion.finish()
    remarks = _remarks(plan, study, halted)
    (folder / "report").mkdir(exist_ok=True)
    report = leaderboard(plan.file.name, study.trials(), remarks)
    write_atomically(folder / "report" / "leaderboard.md", report.encode())
    _print_results(folder, scores, remarks)
    if scores and plan.folds and study.done:
        refit = score_refit(folder, plan, scores)
        missing = "refit: not scored, since a fold of a member failed (see the leaderboard)"
        print(refit_summary(refit) if refit else missing)
    compared = compare_sweep(folder, plan, study) if study.done else None
    if compared:
        print(f"\n{compared}\ncomparison:  {folder / 'report' / 'comparison.md'}")
    if halted == INTERRUPTED:
        return EXIT_INTERRUPTED
    as_planned = study.done or (halted is not None and limits.planned(halted))
    return 0 if as_planned and scores else 1


def _remarks(plan: Plan, study: SweepStudy, halted: str | None) -> list[str]:
    counts = ", ".join(f"{number} {state}" for state, number in study.counts().items())
    remarks = [f"trials: {counts or 'none'}", *(f"lost: {sentence}" for sentence in plan.lost)]
    adopted = Counter(
        t.user_attrs[ORIGIN].partition(":")[0]
        for trials in study.trials().values()
        for t in trials
        if ORIGIN in t.user_attrs
    )
    remarks += [f"of these {number} taken over from {run}" for run, number in adopted.items()]
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
    print(f"\n{summary(scores)}\n")
    if (folder / "submission.txt").exists():
        print(f"submission:  {folder / 'submission.txt'}")
    print(f"scores:      {folder / 'scores.json'}")
    print(f"fusion:      {folder / 'report' / 'fusion.html'}")
    print(f"leaderboard: {folder / 'report' / 'leaderboard.md'}")
