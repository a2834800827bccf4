"""Comparison of a sweep's variants, each trained again with its best config and new seeds.

A variant is one compared value, such as one encoder, or one combination of compared values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mtl.evaluation.comparison import ALL, SIGNIFICANCE_LEVEL, VariantScores, compare
from mtl.tasks import TASKS
from mtl.whole_files import write_atomically, write_json
from sweeps.fusion.frames import PredictedFrames, listed_rows
from sweeps.pages.html import page
from sweeps.pages.markdown import table
from sweeps.planning.plan import Plan
from sweeps.results import difference_plots
from sweeps.storage.run_folder import REPORT
from sweeps.storage.trial_folder import TrialFolder
from sweeps.study import SweepStudy

Comparison = Mapping[str, Mapping[str, VariantScores]]
"""Nested dict of scores: by task (or sum over all tasks), then by variant (compared value)."""


def compare_sweep(folder: Path, plan: Plan, study: SweepStudy) -> str | None:
    """Compare the variants (compared values, such as encoders) and write the report.

    A variant is scored by the trials that train its best config again with new seeds. The files
    are ``comparison.md``, ``comparison.html`` and ``comparison.json`` in ``report/``.

    Args:
        folder: The sweep's run folder.
        plan: The sweep's plan.
        study: The sweep's Optuna studies, which hold the trials with new seeds.

    Returns:
        Content of ``comparison.md``; None if fewer than two variants have trials with new
        seeds.
    """
    variants: dict[str, list[Any]] = {}
    frames = None
    for name, trials in study.repeats().items():
        for trial in trials:
            predictions = TrialFolder.in_run(folder, trial.user_attrs["signature"]).predictions()
            frames = frames or PredictedFrames(
                plan.listing, plan.parts, listed_rows(plan.listing, predictions)
            )
            variants.setdefault(name.rpartition("/")[2], []).append(predictions.outputs)
    if frames is None or len(variants) < 2:
        return None
    part = "confirm" if len(frames.positions("confirm")) else "select"
    at = frames.positions(part)
    rows = frames.rows[at]
    comparison = compare(
        {variant: [outputs[at] for outputs in seeds] for variant, seeds in variants.items()},
        plan.listing.values[rows],
        plan.listing.mask[rows],
        plan.listing.video[rows],
    )
    return _write(folder / REPORT, plan, comparison, part, len(set(plan.listing.video[rows])))


def comparison_table(comparison: Comparison, by: Sequence[str]) -> str:
    """Return a Markdown table of variants (compared values, such as encoders).

    A cell holds a variant's mean score over seeds in one task, and the difference of this mean
    from the first variant's mean.

    Args:
        comparison: Scores by task, then by variant.
        by: The compared config keys, such as ``encoder``: title of the column of variants.
    """
    variants = dict.fromkeys(variant for scores in comparison.values() for variant in scores)
    head = [", ".join(by), *("P" if name == ALL else name for name in comparison)]
    rows = [
        [variant, *(_cell(scores.get(variant)) for scores in comparison.values())]
        for variant in variants
    ]
    return table(head, rows)


def comparison_note(comparison: Comparison, part: str, videos: int) -> str:
    """Return the sentence that explains the table of compared variants.

    Args:
        comparison: Scores by task, then by variant (compared value, such as one encoder).
        part: Scored validation videos: ``confirm`` (held back) or ``select`` (used for choices).
        videos: Number of scored videos.
    """
    seeds = sorted({len(s.scores) for scores in comparison.values() for s in scores.values()})
    return (
        f"Means over {' to '.join(map(str, seeds))} seeds of scores pooled over the {videos} "
        f"videos of {part}, before post-processing; in brackets the difference from the first "
        "value that has the task, with a paired 95 % bootstrap interval over videos; * marks a "
        f"difference whose p, corrected by Holm's method within the column, is below "
        f"{SIGNIFICANCE_LEVEL:g}."
    )


def affinity(comparison: Comparison, task_sets: Mapping[str, Sequence[str]]) -> Comparison:
    """Regroup the scores of a comparison of task sets by the tasks that are trained together.

    Args:
        comparison: Scores by task, then by variant (one compared set of tasks).
        task_sets: Tasks that each variant trains.

    Returns:
        A nested dict. First key: names of the other tasks in a set, such as
        ``valence + arousal``, smaller sets first. Second key: a task trained together with these.
        Value: the task's scores, and their difference from the first variant that has the task.
    """
    variants = {tuple(t for t in TASKS if t in tasks): v for v, tasks in task_sets.items()}
    companion_sets = {tuple(t for t in tasks if t != task) for tasks in variants for task in tasks}
    by_size = sorted(companion_sets - {()}, key=lambda c: (len(c), [*map([*TASKS].index, c)]))
    gains: dict[str, dict[str, VariantScores]] = {}
    for companions in by_size:
        row = gains[" + ".join(companions)] = {}
        for task in TASKS.keys() - set(companions):
            variant = variants.get(tuple(t for t in TASKS if t in (*companions, task)), "")
            if variant in comparison.get(task, {}):
                row[task] = comparison[task][variant]
    return gains


def affinity_table(gains: Comparison) -> str:
    """Return a Markdown table of each task's gain from being trained together with other tasks.

    Args:
        gains: By names of the other tasks, such as ``valence + arousal``, then by task: scores of
            the task, with their difference from the first variant (task set) that has the task.
            The gain is this difference.
    """
    rows = [
        [companions, *(_difference(row[task]) if task in row else "" for task in TASKS)]
        for companions, row in gains.items()
    ]
    return (
        "Gain of each task (columns) from being trained together with others (rows):\n\n"
        + table(["trained with", *TASKS], rows)
    )


def _write(report: Path, plan: Plan, comparison: Comparison, part: str, videos: int) -> str:
    """Write ``comparison.md``, ``.html`` and ``.json`` to a folder; return the Markdown text."""
    name, by = plan.file.name, plan.file.compare.by
    note = comparison_note(comparison, part, videos)
    sections = [comparison_table(comparison, by), note]
    figures = [difference_plots.differences(comparison)]
    if by == ("tasks",):
        task_sets = {plan.space.label(c): c["tasks"] for c in plan.space.comparisons()}
        gains = affinity(comparison, task_sets)
        sections.append(affinity_table(gains))
        figures.append(difference_plots.affinity(gains))
    text = "\n\n".join(sections) + "\n"
    report.mkdir(exist_ok=True)
    write_atomically(report / "comparison.md", text.encode())
    write_atomically(report / "comparison.html", page(f"{name}: comparison", note, figures))
    content = {
        task: {variant: asdict(s) for variant, s in scores.items()}
        for task, scores in comparison.items()
    }
    write_json(report / "comparison.json", {"part": part, "standings": content})
    return text


def _cell(scores: VariantScores | None) -> str:
    if scores is None:
        return "-"
    return f"{scores.mean:.3f} {_difference(scores)}".rstrip()


def _difference(scores: VariantScores) -> str:
    """Return, as text, a variant's mean score minus the first variant's mean score.

    The text is the difference, a star if it is significant, and its interval in brackets. It is
    empty for the first variant.
    """
    difference = scores.difference
    if difference is None:
        return ""
    low, high = difference.interval
    star = "*" if difference.p < SIGNIFICANCE_LEVEL else ""
    return f"{difference.mean:+.3f}{star} [{low:+.3f}, {high:+.3f}]"
