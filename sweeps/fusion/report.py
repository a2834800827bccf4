"""Report of a fused model in Markdown and HTML: scores, gain, alternatives and fused trials."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtl.whole_files import write_atomically, write_json
from sweeps.fusion import plots
from sweeps.pages.html import page
from sweeps.pages.markdown import number, table
from sweeps.storage.run_folder import ANALYSIS, REFIT, REPORT, SUBMISSION

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
EXPLANATION = (
    "Brackets hold 95 % intervals of the pooled scores, from a studentised bootstrap over the "
    "part's videos. A difference whose interval contains 0 is no gain."
)


def summary(scores: Mapping[str, Any]) -> str:
    """Return the text that is printed at a sweep's end: scores and gain of the fused model.

    The scores are those on ``confirm`` (validation videos held back for the final scores), or on
    ``select`` (validation videos on which choices are made) if ``confirm`` is empty.

    Args:
        scores: Content of the run folder's ``scores.json``.
    """
    part = "confirm" if scores["confirm"] else "select"
    return f"{score_table(scores, part)}\n\n{gain(scores, part)}"


def refit_summary(refit: Mapping[str, Any]) -> str:
    """Return a text table of the scores of refits (fused trials trained again on folds).

    Args:
        refit: Content of ``refit/scores.json``.
    """
    titles = {
        "all": "all labelled videos",
        "without_select": "all but select, on which members were chosen",
        "confirm": "confirm only",
    }
    rows = [
        [titles[part], str(entry["videos"]), *(_with_interval(entry["refit"], c) for c in COLUMNS)]
        for part, entry in refit["out_of_fold"].items()
    ]
    head = [f"refit, {refit['folds']} folds: out of fold", "videos", *COLUMNS.values()]
    lines = [table(head, rows)]
    if "p_labelled" in refit.get("refit_minus_fused", {}):
        videos = refit["out_of_fold"]["confirm"]["videos"]
        difference = _gain_with_verdict(refit["refit_minus_fused"], videos)
        lines.append(f"out of fold minus the sweep's fused model on confirm: {difference}")
    if refit["submission"]:
        lines.append(
            f"{REFIT}/{SUBMISSION}: labels of the test frames, from the mean of all folds' models"
        )
    return "\n\n".join(lines) + "\n"


def write_report(folder: Path, scores: Mapping[str, Any], analysis: Mapping[str, Any]) -> None:
    """Write ``report/fusion.md``, ``report/fusion.html`` and ``fusion/analysis.json``.

    Args:
        folder: The sweep's run folder.
        scores: Content of the run folder's ``scores.json``.
        analysis: Contribution of each fused trial, by task: content of ``fusion/analysis.json``.
    """
    report = folder / REPORT
    report.mkdir(exist_ok=True)
    parts = [part for part in ("confirm", "select") if scores[part]]
    texts = [f"{score_table(scores, part)}\n\n{gain(scores, part)}" for part in parts]
    if "rules" in scores:
        texts.append(rules_table(scores))
        texts.append(sizes_table(scores))
    texts += [members_table(task, entry) for task, entry in analysis.items()]
    text = f"# {folder.name}: fusion\n\n{EXPLANATION}\n\n" + "\n\n".join(texts) + "\n"
    write_atomically(report / "fusion.md", text.encode())
    write_json(folder / ANALYSIS, analysis)
    figures = plots.figures(scores, analysis)
    note = f"{EXPLANATION}</p><pre>{escape(summary(scores))}</pre><p>"
    write_atomically(report / "fusion.html", page(f"{folder.name}: fusion", note, figures))


def score_table(scores: Mapping[str, Any], part: str) -> str:
    """Return a Markdown table of the scores of the fused model and the best single trial.

    Args:
        scores: Content of the run folder's ``scores.json``.
        part: Scored validation videos: ``select`` (used for choices) or ``confirm`` (held back).
    """
    rows = [
        [title, *(_with_interval(scores[part][model], column) for column in COLUMNS)]
        for model, title in MODELS.items()
    ]
    if "ceiling" in scores:
        exact = scores["ceiling"][part]
        rows.append(["exact posterior", *(number(exact[column]) for column in COLUMNS)])
    return table([part, *COLUMNS.values()], rows)


def gain(scores: Mapping[str, Any], part: str) -> str:
    """Return lines of text about the fused model's gain over the best single trial.

    The lines give the difference of the combined scores P (sum of the tasks' scores) with its
    bootstrap interval, and the search optimism (P on ``select``, on which the model was chosen,
    minus P on ``confirm``). For synthetic data they also give the fused model's P divided by the
    best possible P.

    Args:
        scores: Content of the run folder's ``scores.json``.
        part: Scored validation videos: ``select`` (used for choices) or ``confirm`` (held back).
    """
    both = scores[part]["fused_minus_best_single"], scores[part]["fused_raw_minus_best_single_raw"]
    if "p_labelled" not in both[0]:
        return f"fused and best single on {part}: not compared, no labels or different tasks"
    lines = [
        f"fused minus best single on {part}, {outputs}: "
        f"{_gain_with_verdict(difference, scores['videos'][part])}"
        for outputs, difference in zip(("post-processed", "raw"), both, strict=True)
    ]
    if part == "select":
        lines.append("the models were chosen on these videos, so these scores are too optimistic")
    if part == "confirm" and scores.get("search_optimism"):
        models = ("fused", "best_single")
        differences = (f"{MODELS[m]} {scores['search_optimism'][m]:+.3f}" for m in models)
        lines.append(f"search optimism (select minus confirm): {'; '.join(differences)}")
    return "\n".join([*lines, *_share_of_ceiling(scores, part)])


def rules_table(scores: Mapping[str, Any]) -> str:
    """Return a Markdown section with the scores of an ensemble for each selection rule.

    Args:
        scores: Content of the run folder's ``scores.json``.
    """
    rows = [
        [rule + (" (used)" if rule == scores["method"] else ""), *_p_cells(entry)]
        for rule, entry in scores["rules"].items()
    ]
    return "## Rules of fusion\n\nP before post-processing.\n\n" + table(
        ["rule", "select", "confirm", "minus the rule used, on confirm"], rows
    )


def sizes_table(scores: Mapping[str, Any]) -> str:
    """Return a Markdown section with the scores and costs of ensembles of fewer trials.

    Args:
        scores: Content of the run folder's ``scores.json``.
    """
    rows = [
        [str(ensemble["members"]), *_cost_cells(ensemble), *_p_cells(ensemble)]
        for ensemble in scores["small_ensembles"]
    ]
    rows.append(["all members", *_cost_cells(scores["cost"]), *_p_cells(_used_rule(scores))])
    head = ["trials", "models", "parameters", "frames/s", "select", "confirm"]
    head.append("minus all members, on confirm")
    note = (
        "P before post-processing; models is the number of trained models that predict each frame, "
        "frames/s the frames that they predict per second on the machines that trained them."
    )
    return f"## Fewer trials\n\n{note}\n\n" + table(head, rows)


def members_table(task: str, analysis: Mapping[str, Any]) -> str:
    """Return a Markdown section with the members (fused trials) of one task.

    For each member the table gives the member's share of the weights, and the drop of the task's
    score if the member is left out.

    Args:
        task: Name of the task.
        analysis: The task's entry of ``fusion/analysis.json``.
    """
    total = sum(analysis["members"].values())
    parts = list(analysis["lost_without"])
    rows = [
        [signature, f"{weight / total:.2f}", *(_drop_cell(analysis, p, signature) for p in parts)]
        for signature, weight in analysis["members"].items()
    ]
    head = ["member", "share", *(f"score drop without it, {part}" for part in parts)]
    return f"## Members for {task}\n\n" + table(head, rows)


def _used_rule(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by split, the combined score ``p`` and ``interval`` of the sweep's selection rule."""
    entry: Mapping[str, Any] = scores["rules"][scores["method"]]
    return {part: entry[part] for part in ("select", "confirm") if part in entry}


def _gain_with_verdict(difference: Mapping[str, Any], videos: int) -> str:
    """Return a difference of two models' combined scores P as text, with its interval.

    A remark is added if the interval contains 0, which means that no gain is shown.

    Args:
        difference: Difference under ``p_labelled``, and its interval under ``interval``.
        videos: Number of scored videos, which the remark names.
    """
    low, high = difference["interval"]["p_labelled"]
    verdict = "" if low > 0 or high < 0 else f": no gain that these {videos} videos can show"
    return f"{difference['p_labelled']:+.3f} [{low:+.3f}, {high:+.3f}]{verdict}"


def _share_of_ceiling(scores: Mapping[str, Any], part: str) -> list[str]:
    reached = scores.get("ceiling", {}).get(part, {}).get("reached")
    if reached is None:
        return []
    low, high = reached["interval"]
    share = f"{reached['share']:.3f} [{low:.3f}, {high:.3f}]"
    return [f"P of fused divided by P of the exact posterior on {part}: {share}"]


def _p_cells(entry: Mapping[str, Any]) -> list[str]:
    """Return three table cells about an alternative to the fused model.

    The cells hold the alternative's combined score P (sum of the tasks' scores) on ``select``
    (validation videos used for choices), its P on ``confirm`` (validation videos held back), and
    on ``confirm`` the alternative's P minus the fused model's P.
    """
    cells = []
    for part in ("select", "confirm"):
        score = entry.get(part)
        cells.append("-" if score is None else _bracketed(score["p"], score["interval"], "{:.3f}"))
    minus = entry.get("minus_fused_raw")
    interval = minus["interval"]["p_labelled"] if minus else None
    cells.append(_bracketed(minus["p_labelled"], interval, "{:+.3f}") if minus else "-")
    return cells


def _cost_cells(cost: Mapping[str, Any]) -> list[str]:
    """Return three table cells: number of models, number of parameters, frames per second."""
    parameters = cost["parameters"]
    rate = cost["frames_per_second"]
    return [
        str(cost["models"]),
        "-" if parameters is None else f"{parameters:,}",
        "-" if rate is None else f"{rate:,.0f}",
    ]


def _drop_cell(analysis: Mapping[str, Any], part: str, signature: str) -> str:
    drop = analysis["lost_without"][part].get(signature)
    return "-" if drop is None else _bracketed(drop["score"], drop["interval"], "{:+.3f}")


def _with_interval(scores: Mapping[str, Any], column: str) -> str:
    interval = scores.get("interval", {}).get(column)
    if interval is None:
        return number(scores[column])
    return _bracketed(scores[column], interval, "{:.3f}")


def _bracketed(value: float, interval: Sequence[float] | None, form: str) -> str:
    """Return a number as text, followed by its interval in square brackets if there is one.

    Args:
        value: The number.
        interval: Lower and upper end of the interval; None for no interval.
        form: Format of the three numbers, such as ``{:.3f}``.
    """
    ends = "" if interval is None else f" [{', '.join(form.format(end) for end in interval)}]"
    return form.format(value) + ends
