"""The published schema is that of the records, stands alone, and refuses what it must."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tasks.report.metrics_json import metrics_json
from tasks.report.schema import SCHEMA_FILE, metrics_schema, problems_of, schema_text
from tests.golden.sample_release import INT4, sample_dossier


@pytest.fixture
def document() -> dict[str, Any]:
    return dict(json.loads(metrics_json(sample_dossier())))


def test_committed_schema_is_what_the_records_give() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), (
        "a record has changed: run `python -m tasks.report.schema` and look at the difference"
    )


def test_schema_is_one_and_names_no_host_but_its_dialect() -> None:
    Draft202012Validator.check_schema(metrics_schema())
    lines = [line for line in schema_text().splitlines() if "://" in line]
    assert lines == [' "$schema": "https://json-schema.org/draft/2020-12/schema",']
    assert metrics_schema()["$id"] == "urn:ingot:release:2"


def test_sample_meets_the_schema(document: dict[str, Any]) -> None:
    assert problems_of(document) == []


def test_bound_of_an_interval_may_be_missing_but_not_the_interval_half(
    document: dict[str, Any],
) -> None:
    measurement = document["release"]["metrics"][INT4]["answers.flip_rate"]
    measurement["ci95"] = [0.1, None]
    assert problems_of(document) == []
    measurement["ci95"] = [0.1]
    assert len(problems_of(document)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", "ingot.release/1"),
        ("champion", "int4"),
        ("gates", None),
        ("run_id", 7),
        ("surprise", True),
    ],
)
def test_planted_fault_is_found(document: dict[str, Any], field: str, value: object) -> None:
    assert problems_of({**document, field: value})


def test_missing_field_is_found_and_named(document: dict[str, Any]) -> None:
    del document["release"]["variants"][0]["digest"]
    assert problems_of(document) == ["$.release.variants[0]: 'digest' is a required property"]
