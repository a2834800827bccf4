"""What a sweep's comparison comes to: each compared value's best config, trained with new seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtl.evaluation.comparison import ALL, SIGNIFICANCE_LEVEL, VariantScores, compare
from mtl.predictions.table import Predictions
from mtl.tasks import TASKS
from mtl.whole_files import write_atomically, write_json
from sweeps.fusion.frames import PredictedFrames, listed_rows
from sweeps.pages.html import page
from sweeps.pages.markdown import table
from sweeps.planning.plan import Plan
from sweeps.results import difference_plots
from sweeps.study import SweepStudy

Standings = Mapping[str, Mapping[str, VariantScores]]


def compare_sweep(folder: Path, plan: Plan, study: SweepStudy) -> str | None:
    """Compare what has been trained with all new seeds; write ``report/comparison.*``.

    Returns:
        The tables in Markdown; None as long as fewer than two values can be compared.
    """
    ways: dict[str, list[Any]] = {}
    frames = None
    for name, trials in study.repeats().items():
        for trial in trials:
            file = folder / "trials" / trial.user_attrs["signature"] / "predictions.parquet"
            predictions = Predictions.load(file)
            frames = frames or PredictedFrames(
                plan.listing, plan.parts, listed_rows(plan.listing, predictions)
            )
            ways.setdefault(name.rpartition("/")[2], []).append(predictions.outputs)
    if frames is None or len(ways) < 2:
        return None
    part = "confirm" if len(frames.of("confirm")) else "select"
    at = frames.of(part)
    rows = frames.rows[at]
    standings = compare(
        {way: [outputs[at] for outputs in seeds] for way, seeds in ways.items()},
        plan.listing.values[rows],
        plan.listing.mask[rows],
        plan.listing.video[rows],
    )
    name, videos = plan.file.name, len(set(plan.listing.video[rows]))
    note = comparison_note(standings, part, videos)
    parts = [comparison_table(standings, plan.file.compare.by), note]
    figures = [difference_plots.differences(standings)]
    if plan.file.compare.by == ("tasks",):
        sets = {plan.space.label(c): c["tasks"] for c in plan.space.comparisons()}
        gains = affinity(standings, sets)
        parts.append(affinity_table(gains))
        figures.append(difference_plots.affinity(gains))
    text = "\n\n".join(parts) + "\n"
    report = folder / "report"
    report.mkdir(exist_ok=True)
    write_atomically(report / "comparison.md", text.encode())
    write_atomically(report / "comparison.html", page(f"{name}: comparison", note, figures))
    content = {n: {way: asdict(s) for way, s in found.items()} for n, found in standings.items()}
    write_json(report / "comparison.json", {"part": part, "standings": content})
    return text


def comparison_table(standings: Standings, by: Sequence[str]) -> str:
    """Per value and task: the mean over seeds, and the difference to the first value."""
    ways = list(dict.fromkeys(way for found in standings.values() for way in found))
    head = [", ".join(by), *("P" if name == ALL else name for name in standings)]
    rows = [[way, *(_cell(found.get(way)) for found in standings.values())] for way in ways]
    return table(head, rows)


def comparison_note(standings: Standings, part: str, videos: int) -> str:
    """How to read it."""
    seeds = sorted({len(s.scores) for found in standings.values() for s in found.values()})
    return (
        f"Means over {' to '.join(map(str, seeds))} seeds of scores pooled over the {videos} "
        f"videos of {part}, raw; in brackets the difference to the first value that has the "
        "task, with a paired 95 % bootstrap interval over videos; * where Holm's p within the "
        f"column is below {SIGNIFICANCE_LEVEL:g}."
    )


def affinity(standings: Standings, sets: Mapping[str, Sequence[str]]) -> Standings:
    """Of each set of companions how each target stands that was trained with them.

    Args:
        standings: By task, then by set of tasks.
        sets: The tasks of each set.
    """
    names = {tuple(t for t in TASKS if t in tasks): way for way, tasks in sets.items()}
    companions = {tuple(t for t in tasks if t != target) for tasks in names for target in tasks}
    gains: dict[str, dict[str, VariantScores]] = {}
    for others in sorted(companions - {()}, key=lambda c: (len(c), [*map([*TASKS].index, c)])):
        row = gains[" + ".join(others)] = {}
        for target in TASKS.keys() - set(others):
            way = names.get(tuple(t for t in TASKS if t in (*others, target)), "")
            if way in standings.get(target, {}):
                row[target] = standings[target][way]
    return gains


def affinity_table(gains: Standings) -> str:
    """What each task gains from being trained with others: rows are companions."""
    rows = [
        [others, *(_difference(found[task]) if task in found else "" for task in TASKS)]
        for others, found in gains.items()
    ]
    return (
        "Gain of each task (columns) from being trained together with others (rows):\n\n"
        + table(["trained with", *TASKS], rows)
    )


def _cell(standing: VariantScores | None) -> str:
    if standing is None:
        return "-"
    spread = f"{standing.mean:.3f}"
    return f"{spread} {_difference(standing)}".rstrip()


def _difference(standing: VariantScores) -> str:
    found = standing.difference
    if found is None:
        return ""
    low, high = found.interval
    star = "*" if found.p < SIGNIFICANCE_LEVEL else ""
    return f"{found.mean:+.3f}{star} [{low:+.3f}, {high:+.3f}]"
