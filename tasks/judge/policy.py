"""Reading the gates that a release must hold: the default file, and the user's over it.

Knows limits and names; it never sees a measurement. Whatever is unknown in a file is refused
before anything is built: a misspelt gate must not turn into a gate that is never asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.core.errors import PolicyRefused
from tasks.core.records import SHIPPABLE, Precision, Record, Severity
from tasks.judge.policy_file import (
    DefaultFile,
    GateTable,
    Operator,
    PolicyFile,
    ShippableName,
    nearest,
    read_file,
)

DEFAULT_POLICY = Path(__file__).with_name("policy.toml")

# A limit of a size class takes the place of `limit` below so many parameters; largest first.
SIZE_CLASSES = {"limit_below_4b": 4_000_000_000, "limit_below_1b": 1_000_000_000}
_LIMITS = ("limit", *SIZE_CLASSES)
_KINDS = ("limit", "champion_factor", "champion_margin", "champion_limit")
LIMIT_FIELDS = (*_LIMITS, *_KINDS[1:], "never_tighter_than")


class Gate(Record):
    """One condition on one metric: against a number, or against the champion's own value.

    Exactly one of `limit`, `champion_factor`, `champion_margin` and `champion_limit` is there, for
    every shippable precision.

    Attributes:
        severity: of a FAIL.
        inconclusive: of an INCONCLUSIVE.
        limit: by precision.
        limit_below_4b, limit_below_1b: take the place of `limit` for checkpoints below so many
            parameters, for the precisions they name; the smallest class that fits counts.
        champion_factor: the limit is so many times the champion's value.
        champion_margin: the limit is so far from the champion's value, whatever its precision.
        champion_limit: the limit of a metric that itself compares with the champion.
        never_tighter_than: the champion asks for no more than this, however good it is.
        why: what the gate protects, in one line.
    """

    name: str
    metric: str
    operator: Operator
    severity: Severity
    inconclusive: Severity
    enabled: bool
    limit: dict[Precision, float]
    limit_below_4b: dict[Precision, float]
    limit_below_1b: dict[Precision, float]
    champion_factor: dict[Precision, float]
    champion_margin: dict[Precision, float]
    champion_limit: dict[Precision, float]
    never_tighter_than: dict[Precision, float]
    why: str

    @property
    def asks_champion(self) -> bool:
        """The gate holds a variant against the champion of its precision."""
        return not self.limit

    def limit_for(self, precision: Precision, parameters: int) -> float:
        """Give the limit for one precision of a checkpoint with that many parameters.

        Raises:
            KeyError: the gate asks for the champion.
        """
        for field, below in reversed(SIZE_CLASSES.items()):
            limits: dict[Precision, float] = getattr(self, field)
            if parameters < below and precision in limits:
                return limits[precision]
        return self.limit[precision]

    def limit_from(self, precision: Precision, champion: tuple[float, float]) -> float:
        """Give the limit that the champion's value makes.

        From the far end of the champion's own interval, so that an equal model passes.

        Args:
            precision: of champion and variant.
            champion: interval of the champion's value.
        """
        at_most = self.operator == "<="
        end = champion[1] if at_most else champion[0]
        if precision in self.champion_factor:
            # factor * end, and on the right side of it where the value is negative.
            limit = end + (self.champion_factor[precision] - 1) * abs(end)
        else:
            limit = end + self.champion_margin[precision]
        floor = self.never_tighter_than.get(precision, limit)
        return max(limit, floor) if at_most else min(limit, floor)


class Policy(Record):
    """All gates, in the order in which they are reported.

    Attributes:
        gates: with those that are switched off, so that a report can name them.
        order: which precision ships when two passing variants have the same size, first wins.
        metrics: what can be gated, by name, in words.
    """

    gates: list[Gate]
    order: list[Precision]
    metrics: dict[str, str]

    @property
    def enabled_gates(self) -> list[Gate]:
        """The gates that are asked."""
        return [gate for gate in self.gates if gate.enabled]

    @property
    def switched_off(self) -> list[str]:
        """Names of the gates that are not asked."""
        return [gate.name for gate in self.gates if not gate.enabled]


def load_policy(path: Path | None = None) -> Policy:
    """Read the default policy and, where a path is given, the user's changes to it.

    Raises:
        PolicyRefused: the file cannot be read, is not TOML, names an unknown key, gate field,
            metric or precision, has a value of the wrong type, contradicts itself, or leaves
            nothing to check.
    """
    default = read_file(DEFAULT_POLICY, DefaultFile)
    if path is None:
        return _policy(default, default, DEFAULT_POLICY)
    return _policy(default, read_file(path, PolicyFile), path)


def policy_digest(policy: Policy) -> str:
    """Give a digest of all that the policy says, whatever the order in which it says it."""
    gates = {gate.name: gate.model_dump(mode="json") for gate in policy.gates}
    content = {**policy.model_dump(mode="json"), "gates": gates}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- merging


def _policy(default: DefaultFile, user: PolicyFile, path: Path) -> Policy:
    names = [*default.gates, *(name for name in user.gates if name not in default.gates)]
    gates = [_gate(name, default, user.gates.get(name, GateTable()), path) for name in names]
    if not any(gate.enabled and gate.severity is Severity.BLOCK for gate in gates):
        raise PolicyRefused(
            f"policy {path} switches off every blocking gate: any model would ship",
            next_step='leave at least one gate with severity = "block" enabled',
        )
    order = [Precision(name) for name in user.selection.order or default.selection.order]
    if sorted(order) != sorted(SHIPPABLE):
        raise PolicyRefused(
            f"policy {path}: selection.order must name each precision once",
            expected=", ".join(SHIPPABLE),
            got=", ".join(order),
            next_step="name all three; whichever passes and is smallest ships anyway",
        )
    return Policy(gates=gates, order=order, metrics=default.metrics)


def _gate(name: str, default: DefaultFile, change: GateTable, path: Path) -> Gate:
    table = _merged(default.gates.get(name, GateTable()), change)
    if table.metric is None or table.operator is None or _limitless(table):
        raise _incomplete(name, table, default, path)
    if table.metric not in default.metrics:
        raise PolicyRefused(
            f"policy {path}: gates.{name}.metric names an unknown metric {table.metric!r}",
            expected=f"one of {', '.join(default.metrics)}",
            next_step=nearest(table.metric, list(default.metrics)),
        )
    if contradiction := _contradiction(table):
        raise PolicyRefused(
            f"policy {path}: gates.{name} {contradiction}",
            next_step="mend the file, then run again",
        )
    return Gate(
        name=name,
        metric=table.metric,
        operator=table.operator,
        severity=Severity(table.severity),
        inconclusive=Severity(table.inconclusive or table.severity),
        enabled=table.enabled,
        why=table.why,
        **{field: _by_precision(getattr(table, field)) for field in LIMIT_FIELDS},
    )


def _merged(base: GateTable, change: GateTable) -> GateTable:
    given = {field: getattr(change, field) for field in change.model_fields_set}
    tables = {f: {**getattr(base, f), **getattr(change, f)} for f in LIMIT_FIELDS}
    # A new limit drops the default's limits of that precision for smaller models: `limit = 0.05`
    # must not be loosened to 0.20 by a line the user never saw.
    asked: set[str] = set()
    for field in _LIMITS:
        mine = getattr(change, field)
        kept = {name: v for name, v in getattr(base, field).items() if name not in asked}
        tables[field] = {**kept, **mine}
        asked |= set(mine)
    return base.model_copy(update={**given, **tables})


def _by_precision(limits: Mapping[ShippableName, float]) -> dict[Precision, float]:
    given = {Precision(name): limit for name, limit in limits.items()}
    return {precision: given[precision] for precision in SHIPPABLE if precision in given}


# ---------------------------------------------------------------- refusing


def _kinds(table: GateTable) -> list[str]:
    return [field for field in _KINDS if getattr(table, field)]


def _limitless(table: GateTable) -> list[str]:
    """Name the precisions that the gate says nothing about."""
    found = {name for field in _kinds(table) for name in getattr(table, field)}
    return [precision.value for precision in SHIPPABLE if precision not in found]


def _incomplete(name: str, table: GateTable, default: DefaultFile, path: Path) -> PolicyRefused:
    kind = (_kinds(table) or ["limit"])[0]
    limitless = _limitless(table)
    missing = [
        *(["metric"] if table.metric is None else []),
        *(["operator"] if table.operator is None else []),
        *([kind] if not _kinds(table) else [f"{kind} for {p}" for p in limitless]),
    ]
    known = f", or one of the gates {', '.join(default.gates)}" if table.metric is None else ""
    return PolicyRefused(
        f"policy {path}: gates.{name} is not a gate of the default policy and lacks "
        f"{', '.join(missing)}",
        expected=f"metric, operator and a limit for each precision{known}",
        next_step=nearest(name, list(default.gates)),
    )


def _contradiction(table: GateTable) -> str:
    """Say which two things a gate asks for that cannot both be meant; empty when none."""
    kinds = _kinds(table)
    if len(kinds) > 1:
        return f"has {' and '.join(kinds)}: a gate is held against one of them"
    if kinds[0] in ("limit", "champion_limit") and table.never_tighter_than:
        return f"has never_tighter_than, which bounds what the champion reaches, and {kinds[0]}"
    if kinds != ["limit"] and (table.limit_below_4b or table.limit_below_1b):
        return f"has {kinds[0]} and limits by size: the champion has a size already"
    if table.severity == "warn" and table.inconclusive == "block":
        return 'only warns when it fails, but would block when inconclusive = "block"'
    if not _passes_an_equal_model(table):
        return f"refuses a model that equals the champion: {kinds[0]} with {table.operator!r}"
    return ""


def _passes_an_equal_model(table: GateTable) -> bool:
    """Tell whether every limit lies on the good side of the champion's own value."""
    shifts: Iterable[float] = (
        *(factor - 1 for factor in table.champion_factor.values()),
        *table.champion_margin.values(),
    )
    return all(shift >= 0 if table.operator == "<=" else shift <= 0 for shift in shifts)
