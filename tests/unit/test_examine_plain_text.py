"""Windows of plain text: the same everywhere, of many documents, short ones and long ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tasks.examine import plain_text
from tasks.examine.plain_text import (
    control_windows,
    documents,
    long_windows,
    shortfall,
    text_windows,
)
from tasks.examine.protocol import Protocol, TextPlan

PLAN = TextPlan(windows=32, window_tokens=256, long_windows=4, long_tokens=2048)


class Splitter:
    """Gives every piece of `size` characters an id of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.known: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        pieces = [text[start : start + self.size] for start in range(0, len(text), self.size)]
        return [self.known.setdefault(piece, len(self.known)) for piece in pieces]


def test_corpus_is_forty_short_documents_of_other_kinds() -> None:
    texts = documents()
    assert len(texts) == 40
    assert all(re.fullmatch(r"\d\d-[a-z-]+", name) for name in texts)
    assert all(200 <= len(text.split()) <= 310 for text in texts.values())
    assert len(set(texts.values())) == 40


def test_order_of_documents_mixes_the_kinds_and_does_not_follow_the_folder() -> None:
    names = list(documents())
    assert names != sorted(names)
    assert len({name[0] for name in names[:8]}) > 2


def test_windows_are_the_first_tokens_of_one_document_each() -> None:
    splitter = Splitter(4)
    windows = text_windows(splitter, PLAN, context_length=4096)
    assert len(windows) == 32
    assert len({window.question_id for window in windows}) == 32
    for window in windows:
        tokens = splitter.encode(documents()[window.question_id])
        assert [*window.prompt, *window.answer] == tokens[:256]
        assert window.start == 0
        assert window.category == "text"


def test_plan_that_the_documents_cannot_fill_is_told() -> None:
    plan = PLAN.model_copy(update={"windows": 128})
    few = text_windows(Splitter(4), plan, context_length=4096)
    (note,) = shortfall(few, plan)
    assert f"{len(few)} windows of 256 tokens instead of 128" in note
    assert shortfall(few[:32], PLAN) == []


def test_tokenizer_that_makes_many_tokens_gives_more_windows_of_the_same_documents() -> None:
    many = text_windows(Splitter(2), PLAN.model_copy(update={"windows": 70}), context_length=4096)
    assert len(many) == 70
    assert len({window.question_id for window in many}) == 40
    names, places = many[40].origins()
    assert set(names) == {many[40].question_id}
    assert places.tolist() == list(range(257, 512))


def test_tokenizer_that_makes_few_tokens_gives_what_there_is() -> None:
    few = text_windows(Splitter(6), PLAN.model_copy(update={"windows": 128}), context_length=4096)
    assert len(few) == 40
    assert len(text_windows(Splitter(400), PLAN, context_length=4096)) == 0


def test_windows_are_no_longer_than_the_context() -> None:
    windows = text_windows(Splitter(4), PLAN, context_length=100)
    assert {len(window.tokens) for window in windows} == {99}


def test_long_windows_are_the_short_ones_in_a_row() -> None:
    short = text_windows(Splitter(4), PLAN, context_length=4096)
    long = long_windows(Splitter(4), PLAN, context_length=4096)
    assert [len(window.prompt) + len(window.answer) for window in long] == [2048] * 4
    joined = [token for window in long for token in (*window.prompt, *window.answer)]
    assert joined == [token for window in short for token in (*window.prompt, *window.answer)]


def test_token_of_a_long_window_knows_its_document_and_place() -> None:
    splitter = Splitter(4)
    window = long_windows(splitter, PLAN, context_length=4096)[1]
    names, places = window.origins()
    texts = {name: splitter.encode(text) for name, text in documents().items()}
    assert len(set(names)) == 8
    assert [texts[name][place] for name, place in zip(names, places, strict=True)] == window.answer


def test_long_windows_leave_a_tenth_of_the_context_free() -> None:
    long = long_windows(Splitter(4), PLAN, context_length=1000)
    assert {len(window.tokens) + 1 for window in long} == {900}
    assert all(len(window.origins()[0]) == len(window.answer) for window in long)
    assert long_windows(Splitter(4), PLAN, context_length=280) == []


def test_long_windows_use_the_text_again_in_another_order() -> None:
    plan = PLAN.model_copy(update={"windows": 8, "long_windows": 3})
    first, second, third = long_windows(Splitter(4), plan, context_length=4096)
    orders = [
        tuple(source.document for source in window.sources) for window in (first, second, third)
    ]
    assert len(set(orders)) == 3
    assert len({frozenset(order) for order in orders}) == 1


def test_control_scores_the_ends_of_short_windows_and_of_a_long_one() -> None:
    protocol = Protocol(text=PLAN, control_windows=3, control_max_tokens=20)
    windows = control_windows(Splitter(4), protocol, context_length=4096)
    assert [len(window.tokens) + 1 for window in windows] == [256, 256, 256, 2048]
    assert {len(window.answer) for window in windows} == {20}
    assert windows[-1].start == 2027
    assert len(windows[-1].origins()[0]) == 20


def test_windows_do_not_depend_on_the_order_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in sorted(documents().items(), reverse=True):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8", newline="\r\n")
    before = text_windows(Splitter(4), PLAN, context_length=4096)
    monkeypatch.setattr(plain_text, "_PROSE", tmp_path)
    assert text_windows(Splitter(4), PLAN, context_length=4096) == before
