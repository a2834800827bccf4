"""Plots of a comparison: differences of scores, and gains from training tasks together."""

import math
from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtl.evaluation.comparison import SIGNIFICANCE_LEVEL, Difference, VariantScores
from mtl.tasks import TASKS

ROW_PIXELS, MARGIN_PIXELS = 26, 140
COLOURS = {
    "gain": "#0b6e4f",
    "loss": "#b3261e",
    f"not sure (p >= {SIGNIFICANCE_LEVEL:g})": "#8a8a8a",
}
GAIN, LOSS, UNSURE = COLOURS


def differences(comparison: Mapping[str, Mapping[str, VariantScores]]) -> go.Figure:
    """Return a figure with a panel per task that compares variants (such as encoders).

    A panel shows each variant's mean score minus the first variant's, with the interval of this
    difference.

    Args:
        comparison: Scores by task, then by variant.
    """
    variants = list(dict.fromkeys(v for scores in comparison.values() for v in scores))
    titles = [f"{name}<br>{_reference(scores)} = 0" for name, scores in comparison.items()]
    figure = make_subplots(1, len(comparison), shared_yaxes=True, subplot_titles=titles)
    in_legend: set[str] = set()
    for column, scores in enumerate(comparison.values(), 1):
        for verdict, colour in COLOURS.items():
            known = {
                variant: variant_scores.difference
                for variant, variant_scores in scores.items()
                if variant_scores.difference and _verdict(variant_scores.difference) == verdict
            }
            figure.add_scatter(
                x=[d.mean for d in known.values()],
                y=list(known),
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [d.interval[1] - d.mean for d in known.values()],
                    "arrayminus": [d.mean - d.interval[0] for d in known.values()],
                },
                mode="markers",
                marker={"color": colour},
                name=verdict,
                legendgroup=verdict,
                # A trace without points must not take the legend's only entry of its verdict.
                showlegend=bool(known) and verdict not in in_legend,
                row=1,
                col=column,
            )
            in_legend |= {verdict} if known else set()
    figure.add_vline(x=0, line_width=1)
    figure.update_annotations(font_size=12)
    figure.update_xaxes(nticks=4)
    figure.update_yaxes(categoryorder="array", categoryarray=variants[::-1], automargin=True)
    figure.update_layout(
        height=MARGIN_PIXELS + ROW_PIXELS * len(variants),
        margin={"t": MARGIN_PIXELS / 2, "b": MARGIN_PIXELS / 2},
        legend={"orientation": "h", "y": -40 / (ROW_PIXELS * len(variants)), "yanchor": "top"},
        template="simple_white",
    )
    return figure


def affinity(gains: Mapping[str, Mapping[str, VariantScores]]) -> go.Figure:
    """Return a heat map of the gain of each task from being trained together with other tasks.

    Args:
        gains: By names of the other tasks, such as ``valence + arousal``, then by task: scores of
            the task, with their difference from the first variant (task set) that has the task.
            The gain is this difference.
    """
    values = [[_gain(row.get(task)) for task in TASKS] for row in gains.values()]
    known = [abs(v) for row in values for v in row if not math.isnan(v)]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(TASKS),
            y=list(gains),
            text=[[_label(row.get(task)) for task in TASKS] for row in gains.values()],
            texttemplate="%{text}",
            colorscale="RdBu",
            zmid=0,
            zmin=-max(known, default=1),
            zmax=max(known, default=1),
            hoverongaps=False,
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        title="Gain of each task (columns) from being trained together with others (rows)",
        height=MARGIN_PIXELS + ROW_PIXELS * len(gains),
        template="simple_white",
    )
    return figure


def _reference(scores: Mapping[str, VariantScores]) -> str:
    return next(iter(scores))


def _verdict(difference: Difference) -> str:
    if difference.p >= SIGNIFICANCE_LEVEL:
        return UNSURE
    return GAIN if difference.mean > 0 else LOSS


def _gain(scores: VariantScores | None) -> float:
    return scores.difference.mean if scores and scores.difference else math.nan


def _label(scores: VariantScores | None) -> str:
    if scores is None or scores.difference is None:
        return ""
    star = "*" if scores.difference.p < SIGNIFICANCE_LEVEL else ""
    return f"{scores.difference.mean:+.3f}{star}"
