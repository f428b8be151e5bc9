"""`ingot policy`: every gate that is in force, and the file and line each value comes from.

Shows what `tasks/judge` read; changes and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.figures import figure
from tasks.core.records import Precision, Severity
from tasks.judge.policy import (
    DEFAULT_POLICY,
    LIMIT_FIELDS,
    SIZE_CLASSES,
    Gate,
    load_policy,
    policy_digest,
)
from tasks.judge.policy_origins import Origin, Origins, read_origins

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Document = dict[str, Any]


_OTHERS = ("metric", "operator", "severity", "inconclusive", "enabled", "why")
BILLION = 1_000_000_000


def policy_document(path: Path | None) -> Document:
    """Give the policy in force as plain data.

    Args:
        path: the user's file, or None for the default policy alone.

    Raises:
        PolicyRefused: the file is wrong; nothing of it is shown then.
    """
    policy = load_policy(path)
    origins = read_origins(path)
    return {
        "default": str(DEFAULT_POLICY),
        "yours": str(path) if path else None,
        "digest": policy_digest(policy),
        "order": {
            "value": [precision.value for precision in policy.order],
            **_origin(origins.of("selection", "order")),
        },
        "gates": [_gate(gate, origins, policy.metrics) for gate in policy.gates],
    }


def _gate(gate: Gate, origins: Origins, metrics: Mapping[str, str]) -> Document:
    where = ("gates", gate.name)
    return {
        "gate": gate.name,
        "metric": gate.metric,
        "measures": metrics[gate.metric],
        "operator": gate.operator,
        "severity": gate.severity.value,
        "inconclusive": gate.inconclusive.value,
        "enabled": gate.enabled,
        "why": gate.why,
        "limits": [
            {
                "kind": field,
                "precision": precision.value,
                "below_parameters": SIZE_CLASSES.get(field),
                "value": value,
                **_origin(origins.of(*where, field, precision.value)),
            }
            for field, precision, value in _values(gate)
        ],
        "from": {field: _origin(origins.of(*where, field)) for field in _OTHERS},
    }


def _values(gate: Gate) -> Iterator[tuple[str, Precision, float]]:
    """Go through the limits: precision by precision, larger models first."""
    for precision in Precision:
        for field in LIMIT_FIELDS:
            limits: dict[Precision, float] = getattr(gate, field)
            if precision in limits:
                yield field, precision, limits[precision]


def _origin(origin: Origin) -> Document:
    return {"from": "yours" if origin.yours else "default", "line": origin.line}


# ---------------------------------------------------------------- on a terminal


def print_policy(console: Console, document: Document) -> None:
    """Print one row a gate, what is switched off, and which files were read."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(header_style="bold", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 1, 0))
    table.add_column("gate, its metric, why", overflow="fold")
    for column in ("limit", "from, line", "severity"):
        table.add_column(column, no_wrap=True)
    for gate in document["gates"]:
        if gate["enabled"]:
            lines = list(_limit_lines(gate))
            table.add_row(_named(gate), _column(lines, 0), _column(lines, 1), _severity(gate))
    console.print(table)
    off = [gate for gate in document["gates"] if not gate["enabled"]]
    for gate in off:
        where = _where(gate["from"]["enabled"])
        console.print(f"[bold]Switched off[/] {gate['gate']} ({where}): {escape(gate['why'])}")
    order = document["order"]
    console.print(f"Of two of equal size ships: {', '.join(order['value'])} ({_where(order)})")
    for name in ("default", "yours"):
        if document[name]:
            console.print(f"{name:<8}{escape(document[name])}", soft_wrap=True)
    console.print(f"digest  {document['digest'][:12]}")


def _named(gate: Document) -> Text:
    from rich.text import Text

    lines = [Text(gate["gate"], style="bold"), Text(gate["metric"])]
    if gate["why"]:
        lines.append(Text(gate["why"], style="dim"))
    return Text("\n").join([*lines, *(Text(line, style="cyan") for line in _yours(gate))])


def _yours(gate: Document) -> list[str]:
    """Say what else than the limits is the user's."""
    lines = {f: o["line"] for f, o in gate["from"].items() if o["from"] == "yours"}
    if {"metric", "operator"} <= set(lines):
        return [f"a gate of yours, line {lines['metric']}"]
    return [f"{field} is yours, line {line}" for field, line in lines.items()]


def _limit_lines(gate: Document) -> Iterator[tuple[str, str]]:
    """Give each limit in words with its origin; one line where all precisions share it."""
    limits = gate["limits"]
    if len({(limit["kind"], limit["value"], _where(limit)) for limit in limits}) == 1:
        yield _in_words(gate, limits[0]), _where(limits[0])
        return
    width = max(len(_in_words(gate, limit)) for limit in limits)
    for limit in limits:
        yield f"{_in_words(gate, limit):<{width}} {_whose(limit)}", _where(limit)


def _in_words(gate: Document, limit: Document) -> str:
    value = _exact(limit["value"])
    sign = "-" if limit["value"] < 0 else "+"
    words = {
        "champion_factor": f"{gate['operator']} champion x {value}",
        "champion_margin": f"{gate['operator']} champion {sign} {_exact(abs(limit['value']))}",
        "never_tighter_than": f"   {value} passes",
    }
    return words.get(limit["kind"], f"{gate['operator']} {value}")


def _exact(value: float) -> str:
    """Write a limit with all its digits: it is compared with, not read off."""
    text = figure(value)
    return text if float(text.replace(",", "")) == value else repr(value)


def _whose(limit: Document) -> str:
    label = str(limit["precision"]).upper()
    below = limit["below_parameters"]
    return f"{label} below {below // BILLION} B" if below else label


def _where(origin: Document) -> str:
    return str(origin["from"]) if origin["line"] is None else f"{origin['from']} {origin['line']}"


def _column(lines: list[tuple[str, str]], index: int) -> Text:
    from rich.text import Text

    styles = ["cyan" if line[1].startswith("yours") else "" for line in lines]
    cells = [Text(line[index], style=style) for line, style in zip(lines, styles, strict=True)]
    return Text("\n").join(cells)


def _severity(gate: Document) -> Text:
    from rich.text import Text

    if gate["severity"] == Severity.WARN:
        return Text("warn", style="yellow")
    if gate["inconclusive"] == Severity.WARN:
        return Text("block\nif proven")
    return Text("block")
