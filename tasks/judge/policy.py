"""Reading the gates that a release must hold: the default file, and the user's over it.

Knows limits and names; it never sees a measurement. Whatever is unknown in a file is refused
before anything is built: a misspelt gate must not turn into a gate that is never asked.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
)

from tasks.core.errors import PolicyRefused
from tasks.core.records import SHIPPABLE, Precision, Record, Severity

DEFAULT_POLICY = Path(__file__).with_name("policy.toml")
SMALL_MODEL_PARAMETERS = 1_000_000_000

Operator = Literal["<=", ">="]
ShippableName = Literal["int4", "int8", "fp16"]
GateName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class Gate(Record):
    """One condition on one metric.

    Attributes:
        limit: by precision; every shippable precision has one.
        limit_below_1b: takes the place of `limit` for checkpoints below 10^9 parameters, for the
            precisions it names.
        why: what the gate protects, in one line.
    """

    name: str
    metric: str
    operator: Operator
    severity: Severity
    enabled: bool
    limit: dict[Precision, float]
    limit_below_1b: dict[Precision, float]
    why: str

    def limit_for(self, precision: Precision, parameters: int) -> float:
        """Give the limit for one precision of a checkpoint with that many parameters."""
        if parameters < SMALL_MODEL_PARAMETERS and precision in self.limit_below_1b:
            return self.limit_below_1b[precision]
        return self.limit[precision]


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
            metric or precision, has a value of the wrong type, or leaves nothing to check.
    """
    default = _read(DEFAULT_POLICY, _DefaultFile)
    if path is None:
        return _policy(default, default, DEFAULT_POLICY)
    return _policy(default, _read(path, _PolicyFile), path)


def policy_digest(policy: Policy) -> str:
    """Give a digest of all that the policy says, whatever the order in which it says it."""
    gates = {gate.name: gate.model_dump(mode="json") for gate in policy.gates}
    content = {**policy.model_dump(mode="json"), "gates": gates}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ---------------------------------------------------------------- the file, as it is written


def _for_every_precision(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return dict.fromkeys((precision.value for precision in SHIPPABLE), value)
    return value


Limits = Annotated[dict[ShippableName, FiniteFloat], BeforeValidator(_for_every_precision)]


class _Table(BaseModel):
    # Strict, or `limit = true` would be read as 1.0 and `limit = "0.1"` as 0.1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _GateTable(_Table):
    metric: str | None = None
    operator: Operator | None = None
    severity: Literal["block", "warn"] = "block"
    enabled: bool = True
    limit: Limits = {}
    limit_below_1b: Limits = {}
    why: str = ""


class _SelectionTable(_Table):
    order: list[ShippableName] = []


class _PolicyFile(_Table):
    selection: _SelectionTable = _SelectionTable()
    gates: dict[GateName, _GateTable] = {}


class _DefaultFile(_PolicyFile):
    metrics: dict[str, str] = Field(min_length=1)


File = TypeVar("File", bound=_PolicyFile)


def _read(path: Path, kind: type[File]) -> File:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise PolicyRefused(
            f"policy {path} cannot be read: {problem.strerror}",
            next_step="give the path of a TOML file, or none for the default policy",
        ) from problem
    except ValueError as problem:  # TOMLDecodeError and UnicodeDecodeError both are
        raise PolicyRefused(
            f"policy {path} is not TOML: {problem}", next_step="mend that line of the file"
        ) from problem
    try:
        return kind.model_validate(content)
    except ValidationError as problem:
        raise _refused(path, kind, problem) from problem


# ---------------------------------------------------------------- merging


def _policy(default: _DefaultFile, user: _PolicyFile, path: Path) -> Policy:
    names = [*default.gates, *(name for name in user.gates if name not in default.gates)]
    gates = [_gate(name, default, user.gates.get(name, _GateTable()), path) for name in names]
    if not any(gate.enabled and gate.severity is Severity.BLOCK for gate in gates):
        raise PolicyRefused(
            f"policy {path} switches off every blocking gate: any model would ship",
            next_step='leave at least one gate with severity = "block" enabled',
        )
    order = [Precision(name) for name in user.selection.order or default.selection.order]
    if sorted(order) != sorted(SHIPPABLE):
        raise PolicyRefused(
            f"policy {path}: selection.order must name each precision once",
            expected=_listed([precision.value for precision in SHIPPABLE]),
            got=_listed(order),
            next_step="name all three; whichever passes and is smallest ships anyway",
        )
    return Policy(gates=gates, order=order, metrics=default.metrics)


def _gate(name: str, default: _DefaultFile, change: _GateTable, path: Path) -> Gate:
    table = _merged(default.gates.get(name, _GateTable()), change)
    if table.metric is None or table.operator is None or set(table.limit) != set(SHIPPABLE):
        raise _incomplete(name, table, default, path)
    if table.metric not in default.metrics:
        raise PolicyRefused(
            f"policy {path}: gates.{name}.metric names an unknown metric {table.metric!r}",
            expected=f"one of {_listed(default.metrics)}",
            next_step=_nearest(table.metric, list(default.metrics)),
        )
    return Gate(
        name=name,
        metric=table.metric,
        operator=table.operator,
        severity=Severity(table.severity),
        enabled=table.enabled,
        limit=_by_precision(table.limit),
        limit_below_1b=_by_precision(table.limit_below_1b),
        why=table.why,
    )


def _merged(base: _GateTable, change: _GateTable) -> _GateTable:
    # A new limit drops the default's small-model limit of that precision: `limit = 0.05` must
    # not be loosened to 0.20 by a line the user never saw.
    kept = {name: v for name, v in base.limit_below_1b.items() if name not in change.limit}
    given = {field: getattr(change, field) for field in change.model_fields_set}
    limits = {
        "limit": {**base.limit, **change.limit},
        "limit_below_1b": {**kept, **change.limit_below_1b},
    }
    return base.model_copy(update={**given, **limits})


def _by_precision(limits: Mapping[ShippableName, float]) -> dict[Precision, float]:
    given = {Precision(name): limit for name, limit in limits.items()}
    return {precision: given[precision] for precision in SHIPPABLE if precision in given}


# ---------------------------------------------------------------- refusing


def _incomplete(name: str, table: _GateTable, default: _DefaultFile, path: Path) -> PolicyRefused:
    limitless = [p.value for p in SHIPPABLE if p not in table.limit]
    missing = [
        *(["metric"] if table.metric is None else []),
        *(["operator"] if table.operator is None else []),
        *(["limit"] if table.limit == {} else [f"limit for {p}" for p in limitless]),
    ]
    known = f", or one of the gates {_listed(default.gates)}" if table.metric is None else ""
    return PolicyRefused(
        f"policy {path}: gates.{name} is not a gate of the default policy and lacks "
        f"{', '.join(missing)}",
        expected=f"metric, operator and a limit for each precision{known}",
        next_step=_nearest(name, list(default.gates)),
    )


def _refused(path: Path, kind: type[_PolicyFile], problem: ValidationError) -> PolicyRefused:
    first = problem.errors(include_url=False)[0]
    where = [str(part) for part in first["loc"] if part != "[key]"]
    more = problem.error_count() - 1
    allowed = _allowed(kind, where, first["type"])
    return PolicyRefused(
        f"policy {path}: {'.'.join(where)}: {_in_words(first['type'], first['msg'])}"
        + (f" (and {more} more)" if more else ""),
        expected=f"one of {_listed(allowed)}" if allowed else "",
        got=repr(first["input"]) if first["type"] != "extra_forbidden" else "",
        next_step=_nearest(where[-1] if first["loc"][-1] == "[key]" else _asked(first), allowed),
    )


def _asked(error: Any) -> str:
    """Give the word that the user wrote where another was expected."""
    return str(error["loc"][-1] if error["type"] == "extra_forbidden" else error["input"])


def _allowed(kind: type[_PolicyFile], where: Sequence[str], problem: str) -> list[str]:
    if problem == "extra_forbidden":
        tables: dict[str, type[BaseModel]] = {"gates": _GateTable, "selection": _SelectionTable}
        return list((tables[where[0]] if len(where) > 1 else kind).model_fields)
    if problem != "literal_error":
        return []
    choices = {"operator": Operator, "severity": Literal["block", "warn"]}
    return list(get_args(choices.get(where[-1], ShippableName)))


def _in_words(kind: str, message: str) -> str:
    words = {
        "extra_forbidden": "unknown key",
        "literal_error": "unknown value",
        "finite_number": "a limit that nothing can pass, or nothing can fail, is not a limit",
        "dict_type": "a table is needed here; for a limit one number, or a table of precisions",
        "string_pattern_mismatch": "a gate's name is lower case letters, digits and underscores",
    }
    return words.get(kind, message[:1].lower() + message[1:])


def _nearest(asked: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(asked, allowed, n=1)
    return f"write {near[0]}, if that is what you mean" if near else "mend the file, then run again"


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(names)
