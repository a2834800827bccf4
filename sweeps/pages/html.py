"""HTML pages of Plotly figures."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.io import to_html

CONFIG = {"displaylogo": False, "responsive": True}
"""Settings of Plotly for every figure of a page."""


def page(title: str, note: str, figures: Sequence[go.Figure]) -> bytes:
    """Return an HTML page of Plotly figures as bytes.

    The page contains Plotly's script, so it can be viewed without a network.

    Args:
        title: Title of the page.
        note: Paragraph below the title, as HTML.
        figures: Figures in the order of the page.
    """
    parts = [
        to_html(figure, full_html=False, include_plotlyjs=first, config=CONFIG)
        for first, figure in zip([True] + [False] * len(figures), figures, strict=False)
    ]
    head = f'<!doctype html><meta charset="utf-8"><title>{title}</title>'
    style = "<style>body{font-family:sans-serif;margin:2em;max-width:90em}</style>"
    return f"{head}{style}<h1>{title}</h1><p>{note}</p>{''.join(parts)}".encode()
