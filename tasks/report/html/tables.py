"""The tables of the page: variants side by side, every figure, every gate, controls, categories.

Arranges measurements and verdicts; makes none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tasks.core.figures import MB, figure
from tasks.core.records import (
    Evidence,
    GateResult,
    GateVerdict,
    Measurement,
    Release,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.report.contents import label_of, tally, verdict_in_words
from tasks.report.html.drawing import Material
from tasks.report.html.labels import GROUPS, SIDE_BY_SIDE, kind_of, label_for, place_of
from tasks.report.html.numbers import Cell, Kind, State, cell_of
from tasks.report.html.verdict import wanted


@dataclass(frozen=True)
class Row:
    """One metric over all variants.

    Attributes:
        words, meaning: what it is called, and what it is.
        metric: its dotted name.
        cells: one a variant.
        methods: numbers in the list of methods.
    """

    words: str
    meaning: str
    metric: str
    cells: list[Cell]
    methods: list[int]


@dataclass(frozen=True)
class Group:
    """Metrics of one suite."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class GateRow:
    """One gate of one variant."""

    gate: str
    why: str
    cell: Cell
    wanted: str
    verdict: str
    state: str


@dataclass(frozen=True)
class Gates:
    """All gates of one variant: what did not pass, what did, what was not asked and why."""

    label: str
    verdict: str
    tally: str
    open: list[GateRow]
    passed: list[GateRow]
    not_asked: dict[str, str]


@dataclass
class Methods:
    """How figures came about, each way once, numbered in the order of the page."""

    users: dict[str, dict[str, set[int]]] = field(default_factory=dict)

    def number(self, metric: str, measurement: Measurement) -> int | None:
        """Take note of a measured figure, and give the number of its method."""
        if measurement.value is None:
            return None
        method = measurement.method or "no method given"
        self.users.setdefault(method, {}).setdefault(metric, set()).add(measurement.n)
        return list(self.users).index(method) + 1

    def listed(self) -> list[tuple[int, str, str]]:
        """Give number, method, and the metrics with their numbers of observations."""
        return [
            (number, method, ", ".join(map(_with_counts, sorted(users.items()))))
            for number, (method, users) in enumerate(self.users.items(), start=1)
        ]


def _with_counts(user: tuple[str, set[int]]) -> str:
    metric, counts = user
    return f"{metric} (n = {' / '.join(f'{n:,}' for n in sorted(counts))})"


# ---------------------------------------------------------------- figures


def side_by_side(release: Release, methods: Methods) -> list[Row]:
    """Give the rows of the table of variants; metrics that nobody reported are left out."""
    rows = [_size_row(release)]
    return rows + [
        _row(release, metric, methods)
        for metric in SIDE_BY_SIDE
        if any(metric in found for found in release.metrics.values())
    ]


def _size_row(release: Release) -> Row:
    source = release.checkpoint.source_bytes
    return Row(
        words="Size on disk",
        meaning=f"the checkpoint has {figure(round(source / MB, 2))} MB",
        metric="size.bytes",
        cells=[_size_cell(variant, source) for variant in release.variants],
        methods=[],
    )


def _size_cell(variant: Variant, source: int) -> Cell:
    return Cell(
        value=f"{figure(round(variant.size_bytes / MB, 2))} MB",
        interval=f"{variant.size_bytes / source * 100:.0f} %",
        n="1",
        method="all files of the folder",
    )


def all_figures(release: Release, methods: Methods) -> list[Group]:
    """Give every metric that any examination reported, by suite."""
    names = sorted({name for found in release.metrics.values() for name in found}, key=place_of)
    groups: dict[str, list[Row]] = {}
    for name in names:
        prefix = name.partition(".")[0]
        groups.setdefault(prefix, []).append(_row(release, name, methods))
    return [Group(GROUPS.get(prefix, prefix), rows) for prefix, rows in groups.items()]


def _row(release: Release, metric: str, methods: Methods) -> Row:
    label, kind = label_for(metric), kind_of(metric)
    found = [release.metrics.get(v.digest, {}).get(metric) for v in release.variants]
    numbers = {methods.number(metric, m) for m in found if m is not None}
    return Row(
        words=label.words,
        meaning=label.meaning,
        metric=metric,
        cells=[cell_of(measurement, kind) for measurement in found],
        methods=sorted(number for number in numbers if number),
    )


# ---------------------------------------------------------------- gates


def gates_of(verdict: VariantVerdict) -> Gates:
    """Sort the gates of a variant: what blocks first, then warnings, then what passed."""
    passed = [gate for gate in verdict.gates if gate.verdict is GateVerdict.PASS]
    others = [gate for gate in verdict.gates if gate.verdict is not GateVerdict.PASS]
    others.sort(key=lambda gate: (gate.severity is Severity.WARN, gate.verdict.value))
    return Gates(
        label=label_of(verdict),
        verdict=verdict.verdict.value,
        tally=tally(verdict),
        open=[_gate_row(gate) for gate in others],
        passed=[_gate_row(gate) for gate in passed],
        not_asked=dict(verdict.not_asked),
    )


def _gate_row(gate: GateResult) -> GateRow:
    state = gate.verdict.value.lower()
    warned = gate.severity is Severity.WARN and gate.verdict is not GateVerdict.PASS
    return GateRow(
        gate=gate.gate,
        why=gate.why,
        cell=cell_of(gate.measurement, kind_of(gate.metric)),
        wanted=wanted(gate),
        verdict=verdict_in_words(gate),
        state="warn" if warned else state,
    )


# ---------------------------------------------------------------- controls


@dataclass(frozen=True)
class Control:
    """One check of the measuring itself."""

    what: str
    cell: Cell
    meaning: str


def controls(release: Release, evidence: Sequence[Evidence]) -> list[Control]:
    """Give what shows that the measuring can be believed."""
    busy = [n for part in evidence for n in part.notes if n.startswith("contended")]
    share = cell_of(_common(release, "speed.contended"), Kind.SHARE)
    said = Cell("contended" if busy else "none noted", n="1", method="what examinations noted")
    return [
        Control(
            "The reference is the model",
            cell_of(_common(release, "reference.kld_mean"), Kind.NATS),
            "KL divergence of the FP32 ONNX model from Hugging Face's, in nats a token. It must "
            "be rounding only (below 1e-6): everything else is measured against this reference.",
        ),
        Control(
            "The same weights timed twice (A/A)",
            cell_of(_common(release, "speed.aa_ratio"), Kind.FACTOR),
            "1 on a fair clock. An interval wholly outside 0.95 to 1.05 makes the speeds of this "
            "run invalid.",
        ),
        Control(
            "Other work on the machine",
            share if share.is_measured else said,
            next(iter(busy), "Share of the timed runs that had to wait for a processor."),
        ),
    ]


def _common(release: Release, metric: str) -> Measurement | None:
    return next((found[metric] for found in release.metrics.values() if metric in found), None)


# ---------------------------------------------------------------- categories


@dataclass(frozen=True)
class Category:
    """Right answers in one category: n, the reference's share, a cell a variant."""

    name: str
    n: int
    reference: str
    cells: list[Cell]


def categories(material: Material) -> list[Category]:
    """Give right answers by category with their Wilson intervals.

    Raises:
        NothingToDraw: the run has no rows by category.
    """
    rows = material.frame("categories", "category", "n", "right", "right_low", "right_high")
    found: dict[str, dict[str, Mapping[str, float]]] = {}
    for row in rows.to_dict(orient="records"):
        found.setdefault(str(row["category"]), {})[str(row["variant_id"])] = {
            str(name): value for name, value in row.items()
        }
    digests = [subject.digest for subject in material.subjects]
    return [_category(name, of, digests) for name, of in sorted(found.items())]


def _category(name: str, of: Mapping[str, Mapping[str, float]], digests: Sequence[str]) -> Category:
    first = next(iter(of.values()))
    share = first.get("right_reference", math.nan)
    reference = Measurement(value=None if math.isnan(share) else share)
    return Category(
        name=name,
        n=int(first["n"]),
        reference=cell_of(reference, Kind.SHARE).value,
        cells=[_share_cell(of.get(digest)) for digest in digests],
    )


def _share_cell(row: Mapping[str, float] | None) -> Cell:
    if row is None:
        return Cell(State.ABSENT.value, method="not examined", state=State.ABSENT)
    changed = f"; {int(row['flips'])} answers changed sides" if "flips" in row else ""
    measurement = Measurement(
        value=row["right"],
        ci95=(row["right_low"], row["right_high"]),
        n=int(row["n"]),
        method=f"share of right answers, Wilson interval{changed}",
    )
    return cell_of(measurement, Kind.SHARE)
