"""A sweep in Markdown: its scores, its trials best first, and what failed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from sweeps.search_file.overrides import by_path, varied_paths

COLUMNS = {
    "p_labelled": "P labelled",
    "ccc_valence": "CCC valence",
    "ccc_arousal": "CCC arousal",
    "f1_expression": "F1 expression",
    "f1_action_units": "F1 action units",
}
MODELS = {
    "fused": "fused, post-processed",
    "fused_raw": "fused",
    "best_single": "best single, post-processed",
    "best_single_raw": "best single",
}


def score_table(scores: Mapping[str, Any], part: str) -> str:
    """One part's scores of the fused model and the best single trial, as a Markdown table; in
    brackets 95 % bootstrap intervals over the part's videos.
    """
    rows = [
        [title, *(_with_interval(scores[part][model], column) for column in COLUMNS)]
        for model, title in MODELS.items()
    ]
    if "ceiling" in scores:
        exact = scores["ceiling"][part]
        rows.append(["exact posterior", *(_number(exact[column]) for column in COLUMNS)])
    return table([part, *COLUMNS.values()], rows)


def gain(scores: Mapping[str, Any], part: str) -> str:
    """What fusion gains over the best single trial, whether that is a gain at all, and on planted
    data how near it comes to the best there is.
    """
    models = scores[part]
    if "p_labelled" not in models["fused_minus_best_single_raw"]["interval"]:
        return f"fused and best single on {part}: not compared, no labels or not the same tasks"
    difference = models["fused"]["p_labelled"] - models["best_single_raw"]["p_labelled"]
    low, high = models["fused_minus_best_single_raw"]["interval"]["p_labelled"]
    verdict = "" if low > 0 or high < 0 else ": no gain that these videos can show"
    return (
        f"fused minus best single on {part}: {difference:+.3f} "
        f"[{low:+.3f}, {high:+.3f}]{verdict} "
        "(fused post-processed, best single raw; 95 % over videos)" + _reached(scores, part)
    )


def _reached(scores: Mapping[str, Any], part: str) -> str:
    reached = scores.get("ceiling", {}).get(part, {}).get("reached")
    if reached is None:
        return ""
    low, high = reached["interval"]
    return (
        f"\nfused over the exact posterior on {part}: {reached['share']:.3f} "
        f"[{low:.3f}, {high:.3f}]"
    )


def leaderboard(
    name: str,
    trials: Mapping[str, Sequence[FrozenTrial]],
    scores: Mapping[str, Any] | None,
    remarks: Sequence[str],
) -> str:
    """The report of a sweep.

    Args:
        name: The sweep.
        trials: Each study's trials.
        scores: What ``scores.json`` holds, if there was anything to fuse.
        remarks: What a reader must know to trust the numbers.
    """
    parts = [f"# {name}", *(f"- {remark}" for remark in remarks)]
    if scores:
        read = [part for part in ("confirm", "select") if scores[part]]
        parts += [f"{score_table(scores, part)}\n\n{gain(scores, part)}" for part in read]
    parts += [f"## {study}\n\n{_trial_table(found)}" for study, found in trials.items()]
    failed = [(study, t) for study, found in trials.items() for t in found if _failed(t)]
    if failed:
        lines = [f"- {study} {t.number}: {t.user_attrs.get('reason')}" for study, t in failed]
        parts.append("## Failed\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _trial_table(trials: Sequence[FrozenTrial]) -> str:
    ended = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    ended.sort(key=lambda t: (-last_value(t), t.number))
    varied = varied_paths([by_path(trial.user_attrs["overrides"]) for trial in ended])
    rows = [
        [
            str(place),
            str(trial.number),
            trial.state.name.lower(),
            str(trial.last_step),
            _number(last_value(trial)),
            *(by_path(trial.user_attrs["overrides"]).get(path, "") for path in varied),
            trial.user_attrs["signature"] + (" (repeat)" if "twin_of" in trial.user_attrs else ""),
        ]
        for place, trial in enumerate(ended, 1)
    ]
    return table(["", "trial", "state", "epochs", "select", *varied, "folder"], rows)


def last_value(trial: FrozenTrial) -> float:
    """A trial's objective at its last epoch."""
    return float(trial.intermediate_values[trial.last_step]) if trial.last_step else float("nan")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    cells = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _failed(trial: FrozenTrial) -> bool:
    return bool(trial.state == TrialState.FAIL)


def _with_interval(scores: Mapping[str, Any], column: str) -> str:
    if column not in scores.get("interval", {}):
        return _number(scores[column])
    low, high = scores["interval"][column]
    return f"{scores[column]:.3f} [{low:.3f}, {high:.3f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def ran_side_by_side(trials: Mapping[str, Sequence[FrozenTrial]]) -> bool:
    """Whether a trial was drawn before another had ended (retries are no draws)."""
    times = sorted(
        (trial.datetime_start, trial.datetime_complete or datetime.max)
        for study in trials.values()
        for trial in study
        if trial.datetime_start is not None and "retry_of" not in trial.user_attrs
    )
    return any(later[0] < earlier[1] for earlier, later in pairwise(times))
