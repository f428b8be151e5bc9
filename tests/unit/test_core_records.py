"""Records are frozen, refuse what they do not know, and mean the same after a trip as JSON."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core import records
from tasks.core.records import (
    Evidence,
    Measurement,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Record,
    Registration,
    Variant,
    merged,
)

DIGEST = "0123456789abcdef" * 4
KINDS = [
    kind
    for _, kind in inspect.getmembers(records, inspect.isclass)
    if issubclass(kind, Record) and kind.__module__ == records.__name__
]
QUESTION: dict[str, Any] = {
    "id": "q1",
    "category": "lights",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Lights!"},
    ],
    "expectation": {"kind": "exact", "value": "on"},
}


def a_variant(**changes: object) -> Variant:
    fields: dict[str, Any] = {
        "checkpoint_digest": DIGEST,
        "recipe": Recipe(precision=Precision.INT4),
        "digest": DIGEST,
        "toolchain": "olive 0.13.0",
        "size_bytes": 1,
        "quantisation": Quantisation(
            bits={4: 24, 8: 1}, block_sizes={32: 25}, symmetric=True, embedding_bits=16
        ),
        "context_length": 512,
        "eos_token_ids": [2],
        "build_seconds": 1.5,
        "build_cpu_s": 1.0,
        "build_peak_rss_bytes": 1,
    }
    return Variant(**{**fields, **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_is_frozen_and_refuses_unknown_fields(kind: type[Record]) -> None:
    assert kind.model_config["frozen"] is True
    assert kind.model_config["extra"] == "forbid"


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_says_what_it_is(kind: type[Record]) -> None:
    assert kind.__doc__
    assert kind.__doc__ != Record.__doc__ or kind is Record


def test_record_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        a_variant().digest = DIGEST


def test_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="blocksize"):
        Recipe.model_validate({"precision": "int4", "blocksize": 32})


@pytest.mark.parametrize(
    "digest", ["", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), "g" * 64, f"{DIGEST}\n"]
)
def test_digest_is_64_lower_case_hex_digits(digest: str) -> None:
    with pytest.raises(ValidationError, match="digest"):
        a_variant(digest=digest)


@pytest.mark.parametrize(
    "record",
    [
        a_variant(),
        Evidence(
            suite="fidelity",
            subject=DIGEST,
            metrics={"fidelity.kld_mean": Measurement(value=0.16, ci95=(0.13, 0.19), n=100)},
            frames=DIGEST,
        ),
        Registration(
            model_id="demo-int4-cpu:1",
            variant=DIGEST,
            path=Path("models") / "demo",
            created=True,
            question="Lights!",
            answer="on",
            right=True,
        ),
        Question.model_validate(QUESTION),
    ],
    ids=lambda record: type(record).__name__,
)
def test_record_is_the_same_after_a_trip_as_json(record: Record) -> None:
    kind = type(record)
    assert kind.model_validate_json(record.model_dump_json()) == record
    assert kind.model_validate(record.model_dump(mode="json")) == record


@pytest.mark.parametrize("role", ["assistant", "system"])
def test_question_must_end_with_the_user(role: str) -> None:
    messages = [*QUESTION["messages"], {"role": role, "content": "Anything else?"}]
    with pytest.raises(ValidationError, match="the last message must be the user's"):
        Question.model_validate({**QUESTION, "messages": messages})


@pytest.mark.parametrize("field", ["id", "category", "messages"])
def test_question_has_no_empty_part(field: str) -> None:
    empty = type(QUESTION[field])()
    with pytest.raises(ValidationError, match=field):
        Question.model_validate({**QUESTION, field: empty})


@pytest.mark.parametrize(
    "change",
    [{"block_size": 48}, {"accuracy_level": 5}, {"precision": "int3"}, {"algorithm": "gptq"}],
)
def test_recipe_refuses_what_the_builder_does_not_know(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(change))):
        Recipe.model_validate({"precision": "int4", **change})


def test_cached_record_names_the_objects_that_it_stands_for() -> None:
    evidence = Evidence(suite="fidelity", subject=DIGEST, metrics={})
    assert a_variant().objects() == [DIGEST]
    assert evidence.objects() == []
    assert evidence.model_copy(update={"frames": DIGEST}).objects() == [DIGEST]
    assert Recipe(precision=Precision.INT4).objects() == []


@pytest.mark.parametrize(
    ("measurement", "settled"),
    [
        (Measurement(value=0.0), True),
        (Measurement(value=None, applies=False), True),
        (Measurement(value=None, final=True), True),
        (Measurement(value=None), False),
    ],
)
def test_only_what_another_try_could_measure_is_unsettled(
    measurement: Measurement, settled: bool
) -> None:
    measured = {"a.sound": Measurement(value=1.0), "a.metric": measurement}
    assert Evidence(suite="a", subject=DIGEST, metrics=measured).is_settled() is settled


@pytest.mark.parametrize("lack", [{"final": True}, {"applies": False}])
def test_what_cannot_be_measured_has_no_value(lack: dict[str, bool]) -> None:
    with pytest.raises(ValidationError, match="has no value"):
        Measurement.model_validate({"value": 1.0, **lack})


def test_merged_evidence_is_one_table_in_which_the_later_counts() -> None:
    def found(name: str, value: float) -> Evidence:
        return Evidence(suite="s", subject=DIGEST, metrics={name: Measurement(value=value)})

    table = merged([found("a", 1.0), found("b", 2.0), found("a", 3.0)])
    assert {name: measurement.value for name, measurement in table.items()} == {"a": 3.0, "b": 2.0}
