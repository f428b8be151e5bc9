"""The forms can be filled in without a manual, and say what is wrong with what was typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from flows.form import Form, placed
from flows.parameters import QuantisationOptions, ReleaseRequest
from flows.preflight import check_request
from flows.soak_order import SoakRequest, check_soak
from tasks.core.errors import InputError

FORMS: list[type[Form]] = [ReleaseRequest, QuantisationOptions, SoakRequest]


def schema_of(form: type[Form]) -> dict[str, Any]:
    return form.model_json_schema()


@pytest.mark.parametrize("form", FORMS)
def test_every_field_says_what_it_is(form: type[Form]) -> None:
    for name, field in schema_of(form)["properties"].items():
        assert field["title"], name
        assert field["description"].endswith("."), name


@pytest.mark.parametrize("form", FORMS)
def test_no_field_is_a_switch_between_a_type_and_none(form: type[Form]) -> None:
    switches = [name for name, field in schema_of(form)["properties"].items() if "anyOf" in field]
    assert switches == (["options"] if form is ReleaseRequest else [])


def test_only_the_checkpoint_is_required_and_it_comes_first() -> None:
    schema = schema_of(ReleaseRequest)
    assert schema["required"] == ["checkpoint"]
    assert list(schema["properties"])[:3] == ["checkpoint", "name", "examination"]
    assert list(schema["properties"])[-1] == "options"


@pytest.mark.parametrize("name", ["examination", "profile"])
def test_choice_is_a_drop_down_with_a_default(name: str) -> None:
    schema = schema_of(ReleaseRequest)
    field = schema["properties"][name]
    choices = schema["$defs"][field["$ref"].rpartition("/")[2]]["enum"]
    assert field["default"] in choices


def test_options_are_folded_away_until_somebody_wants_them() -> None:
    options = schema_of(ReleaseRequest)["properties"]["options"]
    assert options["default"] is None
    assert options["anyOf"] == [{"$ref": "#/$defs/QuantisationOptions"}, {"type": "null"}]
    assert ReleaseRequest(checkpoint=Path("/a"), options=None).options == QuantisationOptions()


def test_what_is_pasted_with_white_space_and_what_is_left_empty() -> None:
    typed = {"checkpoint": " /models/demo\n", "name": " ", "questions": "", "policy": "\n"}
    request = ReleaseRequest.model_validate(typed)
    assert request.checkpoint == Path("/models/demo")
    assert (request.name, request.questions, request.policy) == (None, None, None)


@pytest.mark.parametrize(
    "request_",
    [
        ReleaseRequest(checkpoint=Path("/models/demo")),
        ReleaseRequest(
            checkpoint=Path("/models/demo"),
            name="demo",
            questions=Path("/q.jsonl"),
            options=QuantisationOptions(block_size=128, is_symmetric=False),
        ),
        SoakRequest(),
    ],
)
def test_run_can_be_copied_what_is_written_down_meets_the_form(request_: Form) -> None:
    written = json.loads(request_.model_dump_json())
    Draft202012Validator(schema_of(type(request_))).validate(written)
    assert type(request_).model_validate(written) == request_


@pytest.mark.parametrize(
    "wrong",
    [
        {"checkpoint": ""},
        {"checkpoint": "/a", "precisions": []},
        {"checkpoint": "/a", "precisions": ["fp32"]},
        {"checkpoint": "/a", "approval_hours": 0},
        {"checkpoint": "/a", "approval_hours": 721},
        {"checkpoint": "/a", "options": {"block_size": 33}},
        {"checkpoint": "/a", "chekpoint": "/b"},
    ],
)
def test_form_itself_refuses_what_cannot_be_meant(wrong: dict[str, Any]) -> None:
    assert list(Draft202012Validator(schema_of(ReleaseRequest)).iter_errors(wrong))


def test_unknown_field_is_refused_by_the_record_too() -> None:
    with pytest.raises(ValidationError, match="chekpoint"):
        ReleaseRequest.model_validate({"checkpoint": "/a", "chekpoint": "/b"})


@pytest.mark.parametrize("wrong", [None, "", " \n", 7, ["/a"]])
def test_no_path_is_refused_in_plain_words(wrong: object) -> None:
    with pytest.raises(ValidationError, match="a path is wanted, such as /models/my-model, not"):
        ReleaseRequest.model_validate({"checkpoint": wrong})


def test_wrong_optional_path_is_refused_too() -> None:
    with pytest.raises(ValidationError, match="a path is wanted"):
        ReleaseRequest.model_validate({"checkpoint": "/a", "questions": 7})


@pytest.mark.parametrize("field", ["checkpoint", "questions", "policy"])
def test_relative_path_is_refused_with_what_to_do(field: str, demo_checkpoint: Path) -> None:
    typed = {"checkpoint": demo_checkpoint, field: "models/demo"}
    with pytest.raises(InputError) as problem:
        check_request(ReleaseRequest.model_validate(typed))
    assert "'models/demo' is a relative path" in problem.value.message
    assert "/models/my-model" in problem.value.expected
    assert "worker" in problem.value.next_step


def test_home_of_the_user_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("USERPROFILE", "/home/ada")
    assert placed(Path("~/models/demo"), "the checkpoint folder") == Path("/home/ada/models/demo")


def test_home_of_a_stranger_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be found"):
        placed(Path("~no-such-user-here/models"), "the checkpoint folder")


def test_soak_without_a_champion_says_so(ingot_home: Path) -> None:
    with pytest.raises(InputError, match="nobody"):
        check_soak(SoakRequest(name="nobody"))
