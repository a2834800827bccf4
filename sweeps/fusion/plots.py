"""Plots of the fusion report: alternatives to the fused model, and the members' contributions."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

ROW_PIXELS, MARGIN_PIXELS = 26, 140
DARK, GREY = "#0b6e4f", "#8a8a8a"


def figures(scores: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[go.Figure]:
    """Return all figures of the fusion report for which there are data.

    Args:
        scores: Content of the run folder's ``scores.json``.
        analysis: Content of ``fusion/analysis.json``: contribution of each fused trial, by task.

    Returns:
        Plotly figures: scores of alternatives to the fused model, drops of the score without each
        fused trial, correlations of the trials' errors.
    """
    shown = [alternatives_figure(scores)] if "rules" in scores else []
    several = {task: entry for task, entry in analysis.items() if len(entry["members"]) > 1}
    if several:
        shown += [contributions_figure(several), correlations_figure(several)]
    return shown


def alternatives_figure(scores: Mapping[str, Any]) -> go.Figure:
    """Return a figure of the combined scores P of alternatives to the fused model.

    The alternatives are the other selection rules and smaller ensembles. P (sum of the tasks'
    scores) is shown on ``confirm`` (validation videos held back for the final scores) and on
    ``select`` (validation videos on which choices are made).

    Args:
        scores: Content of the run folder's ``scores.json``.
    """
    alternatives = dict(scores["rules"])
    alternatives |= {
        f"best {ensemble['members']}": ensemble for ensemble in scores["small_ensembles"]
    }
    figure = go.Figure()
    for part, colour in (("confirm", DARK), ("select", GREY)):
        known = {name: entry[part] for name, entry in alternatives.items() if entry.get(part)}
        figure.add_scatter(
            x=[score["p"] for score in known.values()],
            y=list(known),
            error_x=_bars([(s["p"], s["interval"]) for s in known.values()], part == "confirm"),
            mode="markers",
            marker={"color": colour},
            name=part,
        )
    figure.update_yaxes(categoryorder="array", categoryarray=list(alternatives)[::-1])
    title = "Raw P of each alternative; 95 % intervals on confirm"
    return _with_layout(figure, title, len(alternatives))


def contributions_figure(analysis: Mapping[str, Any]) -> go.Figure:
    """Return a figure of the drops of each task's score if one member (fused trial) is left out.

    The scores are those on ``confirm`` (validation videos held back for the final scores), or on
    ``select`` (validation videos on which choices are made) if ``confirm`` is empty.

    Args:
        analysis: Content of ``fusion/analysis.json``, for tasks with at least two members.
    """
    figure = make_subplots(1, len(analysis), subplot_titles=list(analysis), horizontal_spacing=0.12)
    most = 1
    for column, entry in enumerate(analysis.values(), 1):
        part = list(entry["lost_without"])[-1]
        drops = entry["lost_without"][part]
        most = max(most, len(drops))
        figure.add_scatter(
            x=[drop["score"] for drop in drops.values()],
            y=[signature[:8] for signature in drops],
            error_x=_bars([(drop["score"], drop["interval"]) for drop in drops.values()], True),
            mode="markers",
            marker={"color": DARK},
            showlegend=False,
            row=1,
            col=column,
        )
    figure.add_vline(x=0, line_width=1)
    figure.update_xaxes(nticks=4)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _with_layout(figure, "Drop of the score without each member, 95 % intervals", most)


def correlations_figure(analysis: Mapping[str, Any]) -> go.Figure:
    """Return heat maps of the correlations between the errors of the members (fused trials).

    There is one map for each task; errors are those on ``select`` (validation videos on which
    choices are made).

    Args:
        analysis: Content of ``fusion/analysis.json``, for tasks with at least two members.
    """
    figure = make_subplots(1, len(analysis), subplot_titles=list(analysis), horizontal_spacing=0.12)
    for column, entry in enumerate(analysis.values(), 1):
        names = [signature[:8] for signature in entry["members"]]
        figure.add_heatmap(
            z=entry["error_correlation"],
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            showscale=column == len(analysis),
            row=1,
            col=column,
        )
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(autorange="reversed", automargin=True)
    most = max(len(entry["members"]) for entry in analysis.values())
    return _with_layout(figure, "Correlation of the members' errors", most)


def _bars(scores: Sequence[tuple[float, Sequence[float]]], visible: bool) -> dict[str, Any]:
    """Return settings of plotly's error bars.

    Args:
        scores: Pairs of a value and its interval (low, high).
        visible: False to hide the bars.
    """
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in scores],
        "arrayminus": [value - low for value, (low, _) in scores],
        "visible": visible,
    }


def _with_layout(figure: go.Figure, title: str, rows: int) -> go.Figure:
    """Set the title of a figure, and its height for a number of rows; return the same figure."""
    height = 2 * MARGIN_PIXELS + ROW_PIXELS * rows
    figure.update_layout(title=title, height=height, template="simple_white")
    return figure
