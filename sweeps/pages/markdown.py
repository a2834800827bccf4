"""Formatting of Markdown tables, and of numbers in their cells."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, as text.

    Args:
        head: Titles of the columns.
        rows: Cells of each row, in the order of the columns.
    """
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    cells = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def number(value: float | None) -> str:
    """Return a number as text with four decimals, or ``-`` for None."""
    return "-" if value is None else f"{value:.4f}"
