"""Markdown from any text: tables, lists, code blocks that nothing inside them can break.

Knows marks only; what is said with them is written in `markdown.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Rows = list[dict[str, str]]


def section(title: str, body: str) -> str:
    """Put a heading over a body; nothing at all where the body is empty."""
    return f"## {title}\n\n{body}" if body else ""


def bullets(lines: Iterable[str]) -> str:
    """Write lines of any text as a list."""
    return "\n".join(f"- {escaped(line)}" for line in lines)


def table(rows: Rows) -> str:
    """Write rows of one shape as a Markdown table; empty for no rows."""
    if not rows:
        return ""
    lines = [rows[0].keys(), ["---"] * len(rows[0]), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(map(escaped, cells))} |" for cells in lines)


def escaped(text: str) -> str:
    """Make any text safe for one line of Markdown, table cells among them, and still readable."""
    line = " ".join(text.split())
    line = re.sub(r"([|*`\\])", r"\\\1", line)
    return re.sub(r"<(?=[A-Za-z/!?])", r"\<", line).replace("](", r"]\(")


def fenced(text: str, language: str = "text") -> str:
    """Put text into a code block that nothing inside it can close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
