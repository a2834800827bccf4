"""A fused model to look at: other ways to fuse, what each member is worth, how alike they err."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

ROW_PIXELS, MARGIN_PIXELS = 26, 140
DARK, GREY = "#0b6e4f", "#8a8a8a"


def figures(scores: Mapping[str, Any], analysis: Mapping[str, Any]) -> list[go.Figure]:
    """All that there is something to show for."""
    found = [ways(scores)] if "rules" in scores else []
    alike = {task: own for task, own in analysis.items() if len(own["members"]) > 1}
    if alike:
        found += [worth(alike), likeness(alike)]
    return found


def ways(scores: Mapping[str, Any]) -> go.Figure:
    """P of each rule and of small ensembles, with intervals; on ``select`` beside it."""
    names = dict(scores["rules"])
    names |= {f"best {found['members']}": found for found in scores["small_ensembles"]}
    figure = go.Figure()
    for part, colour in (("confirm", DARK), ("select", GREY)):
        known = {name: own[part] for name, own in names.items() if own.get(part)}
        figure.add_scatter(
            x=[score["p"] for score in known.values()],
            y=list(known),
            error_x=_bars([(s["p"], s["interval"]) for s in known.values()], part == "confirm"),
            mode="markers",
            marker={"color": colour},
            name=part,
        )
    figure.update_yaxes(categoryorder="array", categoryarray=list(names)[::-1])
    title = "P of each way to fuse, raw; 95 % intervals on confirm"
    return _dressed(figure, title, len(names))


def worth(analysis: Mapping[str, Any]) -> go.Figure:
    """What each task's score loses without each member: on ``confirm`` where there is one."""
    figure = make_subplots(1, len(analysis), subplot_titles=list(analysis), horizontal_spacing=0.12)
    most = 1
    for column, found in enumerate(analysis.values(), 1):
        part = list(found["lost_without"])[-1]
        lost = found["lost_without"][part]
        most = max(most, len(lost))
        figure.add_scatter(
            x=[loss["score"] for loss in lost.values()],
            y=[signature[:8] for signature in lost],
            error_x=_bars([(loss["score"], loss["interval"]) for loss in lost.values()], True),
            mode="markers",
            marker={"color": DARK},
            showlegend=False,
            row=1,
            col=column,
        )
    figure.add_vline(x=0, line_width=1)
    figure.update_xaxes(nticks=4)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return _dressed(figure, "Score lost without each member, 95 % intervals", most)


def likeness(analysis: Mapping[str, Any]) -> go.Figure:
    """How alike the members of each task err, on ``select``."""
    figure = make_subplots(1, len(analysis), subplot_titles=list(analysis), horizontal_spacing=0.12)
    for column, found in enumerate(analysis.values(), 1):
        names = [signature[:8] for signature in found["members"]]
        figure.add_heatmap(
            z=found["error_correlation"],
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
    most = max(len(found["members"]) for found in analysis.values())
    return _dressed(figure, "Correlation of the members' errors", most)


def _bars(scores: Sequence[tuple[float, Sequence[float]]], shown: bool) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in scores],
        "arrayminus": [value - low for value, (low, _) in scores],
        "visible": shown,
    }


def _dressed(figure: go.Figure, title: str, rows: int) -> go.Figure:
    height = 2 * MARGIN_PIXELS + ROW_PIXELS * rows
    figure.update_layout(title=title, height=height, template="simple_white")
    return figure
