"""A comparison as a page to look at: differences with their intervals, and who helps whom."""

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


def differences(standings: Mapping[str, Mapping[str, VariantScores]]) -> go.Figure:
    """One panel per task: each way's difference to the first, with its interval."""
    ways = list(dict.fromkeys(way for found in standings.values() for way in found))
    titles = [f"{name}<br>{_reference(found)} = 0" for name, found in standings.items()]
    figure = make_subplots(1, len(standings), shared_yaxes=True, subplot_titles=titles)
    in_legend: set[str] = set()
    for column, found in enumerate(standings.values(), 1):
        for verdict, colour in COLOURS.items():
            known = {
                way: standing.difference
                for way, standing in found.items()
                if standing.difference and _verdict(standing.difference) == verdict
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
                # A trace without points has no entry.
                showlegend=bool(known) and verdict not in in_legend,
                row=1,
                col=column,
            )
            in_legend |= {verdict} if known else set()
    figure.add_vline(x=0, line_width=1)
    figure.update_annotations(font_size=12)
    figure.update_xaxes(nticks=4)
    figure.update_yaxes(categoryorder="array", categoryarray=ways[::-1], automargin=True)
    figure.update_layout(
        height=MARGIN_PIXELS + ROW_PIXELS * len(ways),
        margin={"t": MARGIN_PIXELS / 2, "b": MARGIN_PIXELS / 2},
        legend={"orientation": "h", "y": -40 / (ROW_PIXELS * len(ways)), "yanchor": "top"},
        template="simple_white",
    )
    return figure


def affinity(gains: Mapping[str, Mapping[str, VariantScores]]) -> go.Figure:
    """Companions by target: the gain from being trained together."""
    values = [[_gain(row.get(task)) for task in TASKS] for row in gains.values()]
    known = [abs(v) for row in values for v in row if not math.isnan(v)]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(TASKS),
            y=list(gains),
            text=[[_written(row.get(task)) for task in TASKS] for row in gains.values()],
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


def _reference(found: Mapping[str, VariantScores]) -> str:
    return next(iter(found))


def _verdict(difference: Difference) -> str:
    if difference.p >= SIGNIFICANCE_LEVEL:
        return UNSURE
    return GAIN if difference.mean > 0 else LOSS


def _gain(standing: VariantScores | None) -> float:
    return standing.difference.mean if standing and standing.difference else math.nan


def _written(standing: VariantScores | None) -> str:
    if standing is None or standing.difference is None:
        return ""
    star = "*" if standing.difference.p < SIGNIFICANCE_LEVEL else ""
    return f"{standing.difference.mean:+.3f}{star}"
