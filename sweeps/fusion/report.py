"""A fused model in words: its scores, what it gains, what else could have been fused."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtl.whole_files import write_atomically, write_json
from sweeps.fusion import plots
from sweeps.pages.html import page
from sweeps.pages.markdown import number, table

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
READ = (
    "In brackets 95 % intervals: a studentised bootstrap over the part's videos, of pooled scores. "
    "A difference whose interval holds 0 is no gain."
)


def summary(scores: Mapping[str, Any]) -> str:
    """What is printed at a sweep's end."""
    part = "confirm" if scores["confirm"] else "select"
    return f"{score_table(scores, part)}\n\n{gain(scores, part)}"


def refit_summary(refit: Mapping[str, Any]) -> str:
    """What the refit on folds comes to."""
    titles = {
        "all": "all labelled videos",
        "without_select": "without select's, which members were chosen on",
        "confirm": "confirm's alone",
    }
    rows = [
        [titles[part], str(found["videos"]), *(_with_interval(found["refit"], c) for c in COLUMNS)]
        for part, found in refit["out_of_fold"].items()
    ]
    head = [f"refit, {refit['folds']} folds: out of fold", "videos", *COLUMNS.values()]
    lines = [table(head, rows)]
    if "p_labelled" in refit.get("refit_minus_fused", {}):
        said = _gained(refit["refit_minus_fused"], refit["out_of_fold"]["confirm"]["videos"])
        lines.append(f"out of fold minus the sweep's fused model on confirm: {said}")
    if refit["submission"]:
        lines.append("refit/submission.txt: the test frames, as the mean of all folds' models")
    return "\n\n".join(lines) + "\n"


def write_report(folder: Path, scores: Mapping[str, Any], analysis: Mapping[str, Any]) -> None:
    """``report/fusion.md`` and ``.html``, and the numbers of the members in
    ``fusion/analysis.json``.
    """
    report = folder / "report"
    report.mkdir(exist_ok=True)
    parts = [part for part in ("confirm", "select") if scores[part]]
    texts = [f"{score_table(scores, part)}\n\n{gain(scores, part)}" for part in parts]
    if "rules" in scores:
        texts.append(rules_table(scores))
        texts.append(sizes_table(scores))
    texts += [members_table(task, found) for task, found in analysis.items()]
    text = f"# {folder.name}: fusion\n\n{READ}\n\n" + "\n\n".join(texts) + "\n"
    write_atomically(report / "fusion.md", text.encode())
    write_json(folder / "fusion" / "analysis.json", analysis)
    figures = plots.figures(scores, analysis)
    note = f"{READ}</p><pre>{escape(summary(scores))}</pre><p>"
    write_atomically(report / "fusion.html", page(f"{folder.name}: fusion", note, figures))


def score_table(scores: Mapping[str, Any], part: str) -> str:
    """One part's scores of the fused model and the best single trial, as a Markdown table."""
    rows = [
        [title, *(_with_interval(scores[part][model], column) for column in COLUMNS)]
        for model, title in MODELS.items()
    ]
    if "ceiling" in scores:
        exact = scores["ceiling"][part]
        rows.append(["exact posterior", *(number(exact[column]) for column in COLUMNS)])
    return table([part, *COLUMNS.values()], rows)


def gain(scores: Mapping[str, Any], part: str) -> str:
    """What fusion gains over the best single trial and whether that is a gain at all, how much the
    search flatters itself, and on planted data how near it comes to the best there is.
    """
    both = scores[part]["fused_minus_best_single"], scores[part]["fused_raw_minus_best_single_raw"]
    if "p_labelled" not in both[0]:
        return f"fused and best single on {part}: not compared, no labels or not the same tasks"
    lines = [
        f"fused minus best single on {part}, {how}: {_gained(found, scores['videos'][part])}"
        for how, found in zip(("post-processed", "raw"), both, strict=True)
    ]
    if part == "select":
        lines.append("chosen on these videos: what they say of a gain flatters it")
    if part == "confirm" and scores.get("search_optimism"):
        models = ("fused", "best_single")
        said = (f"{MODELS[m]} {scores['search_optimism'][m]:+.3f}" for m in models)
        lines.append(f"search optimism (select minus confirm): {'; '.join(said)}")
    return "\n".join([*lines, *_reached(scores, part)])


def rules_table(scores: Mapping[str, Any]) -> str:
    """What other rules of fusion would have scored."""
    rows = [
        [rule + (" (used)" if rule == scores["method"] else ""), *_beside(found)]
        for rule, found in scores["rules"].items()
    ]
    return "## Other rules\n\nRaw P.\n\n" + table(
        ["rule", "select", "confirm", "minus the one used, on confirm"], rows
    )


def sizes_table(scores: Mapping[str, Any]) -> str:
    """What fewer trials would have scored, and cost."""
    rows = [
        [str(found["members"]), *_cost(found), *_beside(found)]
        for found in scores["small_ensembles"]
    ]
    rows.append(["all chosen", *_cost(scores["cost"]), *_beside(_own(scores))])
    head = ["trials", "models", "parameters", "frames/s", "select", "confirm"]
    head.append("minus all chosen, on confirm")
    note = (
        "Raw P; models is how many run over each frame when one predicts with it, frames/s what "
        "they did so at where they were trained."
    )
    return f"## Fewer members\n\n{note}\n\n" + table(head, rows)


def members_table(task: str, found: Mapping[str, Any]) -> str:
    """One task's members: how much each counts, and what is lost without it."""
    total = sum(found["members"].values())
    parts = list(found["lost_without"])
    rows = [
        [signature, f"{weight / total:.2f}", *(_lost(found, p, signature) for p in parts)]
        for signature, weight in found["members"].items()
    ]
    head = ["member", "share", *(f"lost without it, {part}" for part in parts)]
    return f"## Members for {task}\n\n" + table(head, rows)


def _own(scores: Mapping[str, Any]) -> dict[str, Any]:
    own: Mapping[str, Any] = scores["rules"][scores["method"]]
    return {part: own[part] for part in ("select", "confirm") if part in own}


def _gained(found: Mapping[str, Any], videos: int) -> str:
    low, high = found["interval"]["p_labelled"]
    sure = low > 0 or high < 0
    verdict = "" if sure else f": no gain that these {videos} videos can show"
    return f"{found['p_labelled']:+.3f} [{low:+.3f}, {high:+.3f}]{verdict}"


def _reached(scores: Mapping[str, Any], part: str) -> list[str]:
    reached = scores.get("ceiling", {}).get(part, {}).get("reached")
    if reached is None:
        return []
    low, high = reached["interval"]
    share = f"{reached['share']:.3f} [{low:.3f}, {high:.3f}]"
    return [f"fused over the exact posterior on {part}: {share}"]


def _beside(found: Mapping[str, Any]) -> list[str]:
    """P on select, P on confirm, the difference on confirm."""
    cells = []
    for part in ("select", "confirm"):
        score = found.get(part)
        cells.append("-" if score is None else _bracketed(score["p"], score["interval"], "{:.3f}"))
    minus = found.get("minus_fused_raw")
    interval = minus["interval"]["p_labelled"] if minus else None
    cells.append(_bracketed(minus["p_labelled"], interval, "{:+.3f}") if minus else "-")
    return cells


def _cost(found: Mapping[str, Any]) -> list[str]:
    parameters = found["parameters"]
    rate = found["frames_per_second"]
    return [
        str(found["models"]),
        "-" if parameters is None else f"{parameters:,}",
        "-" if rate is None else f"{rate:,.0f}",
    ]


def _lost(found: Mapping[str, Any], part: str, signature: str) -> str:
    lost = found["lost_without"][part].get(signature)
    return "-" if lost is None else _bracketed(lost["score"], lost["interval"], "{:+.3f}")


def _with_interval(scores: Mapping[str, Any], column: str) -> str:
    interval = scores.get("interval", {}).get(column)
    if interval is None:
        return number(scores[column])
    return _bracketed(scores[column], interval, "{:.3f}")


def _bracketed(value: float, interval: Sequence[float] | None, form: str) -> str:
    ends = "" if interval is None else f" [{', '.join(form.format(end) for end in interval)}]"
    return form.format(value) + ends
