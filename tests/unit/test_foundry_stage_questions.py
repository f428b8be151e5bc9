"""Which questions are asked in staging, and of what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Message
from tasks.core.settings import Settings
from tasks.foundry.stage import choose_questions, examine_in_staging
from tests.foundry_variants import checkpoint_record, question, variant_record


def test_questions_are_the_shortest_of_each_category_in_turn() -> None:
    asked = [
        question("long " * 9, id="a1", category="a"),
        question("short", id="a2", category="a"),
        question("middle one", id="a3", category="a"),
        question("lonely but quite long", id="b1", category="b"),
    ]
    assert [each.id for each in choose_questions(asked, 3)] == ["a2", "b1", "a3"]
    assert choose_questions(asked[::-1], 3) == choose_questions(asked, 3)


def test_question_with_an_empty_message_is_left_out() -> None:
    empty = question("")
    partly = question("x", id="q2")
    turns = [Message(role="system", content=""), *partly.messages]
    assert choose_questions([empty, partly.model_copy(update={"messages": turns})], 6) == []


def test_missing_variant_is_refused_before_anything_starts(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(VariantUnusable, match="not whole in the store"):
        examine_in_staging(
            checkpoint_record(tmp_path), variant_record("a" * 64), [question()], settings=settings
        )
    assert not settings.foundry_staging.exists()
