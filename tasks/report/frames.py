"""Collecting the raw rows of a run: parquet in long format, one file a kind.

Runs in a child process. What the rows mean is the business of the examinations that wrote them;
here they only get the columns that tell runs, variants and suites apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict

from tasks.core.progress import report_progress
from tasks.core.records import Digest, Measurement, Precision, Record
from tasks.core.store import Store

MEASUREMENTS = "metrics"
SUBJECT_COLUMN = "digest"
# What examinations call their rows, and what a run calls them.
RENAMED = {"answers": "outputs"}


class FrameSource(Record):
    """The object that holds the rows of one examination.

    Attributes:
        subjects: what was examined; several where all were examined together, or where the rows
            of each came out the same byte for byte.
    """

    suite: str
    subjects: list[Digest]
    frames: Digest


class MeasurementRow(Record):
    """One measurement in long format."""

    # It crosses to the child as JSON, where a bound at infinity would else become null.
    model_config = ConfigDict(ser_json_inf_nan="constants")

    variant_id: Digest
    precision: Precision | None
    metric: str
    value: float | None
    ci95_low: float | None
    ci95_high: float | None
    n: int
    unit: str
    applies: bool
    final: bool
    method: str


class FramesRequest(Record):
    """What to collect.

    Attributes:
        store: root of the store that holds the sources.
        measurements: they become a frame of their own.
        target: folder that gets one parquet file a kind.
    """

    run_id: str
    store: Path
    sources: list[FrameSource]
    measurements: list[MeasurementRow]
    target: Path


class FramesSummary(Record):
    """What was collected: rows by kind, and what should have been there and was not."""

    rows: dict[str, int]
    missing: list[str]


def collect_frames(request: FramesRequest) -> FramesSummary:
    """Put the rows of all examinations together: `samples`, `kld`, `outputs`, ... and `metrics`.

    Each row gets run_id, variant_id and suite. Rows that name their variant in a column `digest`
    come from an examination of several variants together: they are taken once, and rows beside
    them that name none get a null. A column that only some suites have is null in the rows of the
    others. An object that is gone or damaged is reported, not raised: the numbers were taken from
    it while it was whole.
    """
    import pyarrow as pa

    store = Store(request.store)
    tables: dict[str, list[Any]] = {}
    missing: list[str] = []
    for source in request.sources:
        before = sum(map(len, tables.values()))
        if store.is_intact(source.frames, deep=True):
            for kind, table in _tables(store.path(source.frames), request.run_id, source):
                tables.setdefault(RENAMED.get(kind, kind), []).append(table)
        if before == sum(map(len, tables.values())):
            of = ", ".join(subject[:12] for subject in source.subjects)
            missing.append(f"{source.suite} of {of}: object {source.frames[:12]}")
    collected = {
        kind: pa.concat_tables(parts, promote_options="permissive")
        for kind, parts in sorted(tables.items())
    }
    collected[MEASUREMENTS] = _measurements(request)
    return FramesSummary(rows=_write(collected, request.target), missing=missing)


def _tables(folder: Path, run_id: str, source: FrameSource) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    # Without the schema's pandas metadata: it describes one part, not the whole.
    found = {
        file.stem: pq.read_table(file).replace_schema_metadata(None)
        for file in sorted(folder.rglob("*.parquet"))
    }
    together = any(SUBJECT_COLUMN in table.column_names for table in found.values())
    for subject in [None] if together else source.subjects:
        for kind, table in found.items():
            yield kind, _labelled(table, run_id, subject, source.suite)


def _labelled(table: Any, run_id: str, subject: str | None, suite: str) -> Any:
    """Put run_id, variant_id and suite in front, in the place of columns of these names."""
    import pyarrow as pa

    nothing = pa.array([None] * table.num_rows, pa.string())
    own = table[SUBJECT_COLUMN] if SUBJECT_COLUMN in table.column_names else nothing
    added = {
        "run_id": nothing.fill_null(run_id),
        "variant_id": own.cast(pa.string()) if subject is None else nothing.fill_null(subject),
        "suite": nothing.fill_null(suite),
    }
    table = table.drop_columns([name for name in added if name in table.column_names])
    for place, (name, column) in enumerate(added.items()):
        table = table.add_column(place, name, column)
    return table


def measurement_rows(
    metrics: Mapping[Digest, Mapping[str, Measurement]], precisions: Mapping[Digest, Precision]
) -> list[MeasurementRow]:
    """Put measurements into rows, ordered by variant and metric."""
    return [
        MeasurementRow(
            variant_id=digest,
            precision=precisions.get(digest),
            metric=name,
            value=found.value,
            ci95_low=found.ci95[0] if found.ci95 else None,
            ci95_high=found.ci95[1] if found.ci95 else None,
            n=found.n,
            unit=found.unit,
            applies=found.applies,
            final=found.final,
            method=found.method,
        )
        for digest, of_variant in sorted(metrics.items())
        for name, found in sorted(of_variant.items())
    ]


def _measurements(request: FramesRequest) -> Any:
    import pandas as pd
    import pyarrow as pa

    frame = pd.DataFrame(
        [{"run_id": request.run_id, **dict(row)} for row in request.measurements],
        columns=["run_id", *MeasurementRow.model_fields],
    )
    numbers = ["value", "ci95_low", "ci95_high"]
    return pa.Table.from_pandas(
        frame.astype(dict.fromkeys(numbers, "float64")), preserve_index=False
    )


def _write(tables: dict[str, Any], target: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    for kind, table in tables.items():
        report_progress(f"{kind}: {table.num_rows:,} rows")
        pq.write_table(table, target / f"{kind}.parquet", compression="zstd")
    return {kind: table.num_rows for kind, table in tables.items()}
