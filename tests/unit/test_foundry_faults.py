"""Every kind of Foundry Local error becomes the kind of ours that is retried, or not, as it must.

The words are those that foundry-local-sdk 2.2.1 was heard to say.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import (
    DoesNotFit,
    EnvironmentUnfit,
    IngotError,
    InputError,
    ResourceBusy,
    ToolFailed,
    VariantUnusable,
)
from tasks.foundry import faults
from tasks.foundry.faults import in_plain_words, ingot_error, raise_lack_of_room, service_error

BUDGET = (
    "search_options.cc:108 int fl::ValidateGeneratorRequestBudget(int64_t, int, int) request "
    "requires 3010 total tokens (10 input + 3000 output), which exceeds the model's maximum"
)
BROKEN_INDEX = (
    "local_model_catalog.cc:419 std::vector<fl::LocalModelCatalog::Registration> "
    "fl::LocalModelCatalog::LoadRegistrations() const failed to parse local model registration "
    "index: [json.exception.parse_error.101] parse error at line 1, column 2"
)


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (3, BUDGET, InputError),
        (3, "model_id is already registered: x:1", InputError),
        (4, "unload it first", ToolFailed),
        (2, 'JSON Error: model: Unknown value "zzz" at line 1', VariantUnusable),
        (2, BROKEN_INDEX, EnvironmentUnfit),
        (2, "failed to write local model registration index", EnvironmentUnfit),
        (2, "filesystem error: cannot create directories: Not a directory [/x]", EnvironmentUnfit),
        (2, "write failed: No space left on device", DoesNotFit),
        (2, "flock failed for '/x/foundry.local.modelinfo.lock'", ResourceBusy),
        (0, "something new", ToolFailed),
    ],
)
def test_error_kind(code: int, words: str, kind: type[IngotError]) -> None:
    assert type(ingot_error(code, words, doing="loading x:1", index=Path("/home/f"))) is kind


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("bind failed: Address already in use", ResourceBusy),
        ("something new", ResourceBusy),
        ("flock failed for '/x/foundry.local.modelinfo.lock'", ResourceBusy),
        ("filesystem error: cannot create directories: Read-only file system", EnvironmentUnfit),
        (BROKEN_INDEX, EnvironmentUnfit),
        ("std::bad_alloc", DoesNotFit),
    ],
)
def test_fault_of_the_service_is_never_the_variants(words: str, kind: type[IngotError]) -> None:
    problem = service_error(words, doing="starting the web service", index=Path("/home/f"))
    assert type(problem) is kind
    assert "starting the web service" in str(problem)


def test_broken_index_is_named_and_not_to_be_deleted() -> None:
    message = str(ingot_error(2, BROKEN_INDEX, doing="listing", index=Path("/home/f")))
    assert "foundry.local.modelinfo.json" in message
    assert "do not delete it" in message


def test_source_positions_are_left_out() -> None:
    assert in_plain_words(BUDGET).startswith("request requires 3010 total tokens (10 input")
    assert in_plain_words(BROKEN_INDEX).startswith("failed to parse local model registration index")
    assert in_plain_words("plain words (with brackets) stay") == "plain words (with brackets) stay"


def test_lack_of_room_is_heard_in_any_words_and_nothing_else_is() -> None:
    with pytest.raises(DoesNotFit):
        raise_lack_of_room("500: std::bad_alloc")
    raise_lack_of_room("500: Internal Server Error")


def test_index_that_cannot_be_written_on_a_full_disk_is_lack_of_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "_free_bytes", lambda _: 4096)
    words = "failed to write local model registration index"
    found = ingot_error(2, words, doing="registering x:1", index=tmp_path)
    assert type(found) is DoesNotFit
    assert "do not delete" not in str(found)
