"""Template parity sees one newline more, one token less, and one side refusing."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence

import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import GateVerdict, Message, Precision
from tasks.examine.template import (
    CONVERSATIONS,
    TemplateRefusal,
    Tokenizing,
    compare,
    examine_template,
    normalisation_notes,
)
from tasks.judge.judge import judge_gate
from tests.judged import POLICY

END = 3


class Chat:
    """Renders ChatML and tokenises by code point, like both real sides when they agree."""

    def __init__(self, change: Callable[[str], str] = str, refuses: str = "") -> None:
        self._change = change
        self._refuses = refuses

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        if any(message.role == self._refuses for message in messages):
            raise self.refusal("no such role")
        text = "".join(f"<{message.role}>\n{message.content}<end>\n" for message in messages)
        return self._change(text + ("<assistant>\n" if add_generation_prompt else ""))

    refusal: type[Exception] = TemplateRefusal

    def encode(self, text: str) -> list[int]:
        return [ord(character) for character in text]


class Engine(Chat):
    refusal = VariantUnusable


def measured(
    truth: Tokenizing, shipped: Tokenizing, end_of_turn: int | None = END
) -> tuple[dict[str, float | None], list[str]]:
    metrics, notes = examine_template(
        truth, shipped, [], end_of_turn=end_of_turn, eos_token_ids=[2, END]
    )
    return {name: found.value for name, found in metrics.items()}, notes


def test_equal_templates_have_no_mismatch() -> None:
    metrics, notes = measured(Chat(), Engine())
    assert metrics == {
        "template.text_mismatches": 0,
        "template.token_mismatches": 0,
        "template.conversations": len(CONVERSATIONS),
        "template.eos_missing": 0,
    }
    assert notes == []


def test_one_newline_more_is_a_mismatch_and_the_note_shows_where() -> None:
    metrics, notes = measured(Chat(), Engine(lambda text: text.replace("<end>\n", "<end>\n\n")))
    assert metrics["template.text_mismatches"] == len(CONVERSATIONS)
    assert "conversation 'single'" in notes[0]
    assert r"<end>\n\n<assistant>" in notes[0]


def test_both_refusing_a_system_turn_is_equal_one_refusing_is_not() -> None:
    both = compare(CONVERSATIONS, Chat(refuses="system"), Engine(refuses="system"))
    one = compare(CONVERSATIONS, Chat(), Engine(refuses="system"))
    assert both.text_mismatches == both.token_mismatches == 0
    with_system = sum(any(m.role == "system" for m in each.messages) for each in CONVERSATIONS)
    assert both.conversations == both.rendered == len(CONVERSATIONS) - with_system
    assert (one.conversations, one.rendered) == (both.conversations, len(CONVERSATIONS))
    assert one.text_mismatches == one.token_mismatches == 3
    assert "refuses it" in one.notes[0]


def test_where_both_refuse_everything_nothing_was_compared_and_parity_fails() -> None:
    metrics, _ = examine_template(
        Chat(refuses="user"), Engine(refuses="user"), [], end_of_turn=END, eos_token_ids=[END]
    )
    gates = [gate for gate in POLICY.gates if gate.metric.startswith("template.")]
    held = {
        gate.name: judge_gate(gate, metrics[gate.metric], gate.limit[Precision.INT4]).verdict
        for gate in gates
    }
    failing = {"template_conversations", "template_text", "template_tokens"}
    assert {name for name, verdict in held.items() if verdict is GateVerdict.FAIL} == failing


def test_same_text_with_other_tokens_is_a_token_mismatch() -> None:
    class Dropping(Engine):
        def encode(self, text: str) -> list[int]:
            return [
                part for code in super().encode(text) for part in divmod(code, 9) if code > 9999
            ]

    metrics, notes = measured(Chat(), Dropping())
    assert metrics["template.text_mismatches"] == 0
    assert metrics["template.token_mismatches"] == len(CONVERSATIONS)
    assert "tokenised unlike transformers does from token 0" in notes[0]


def test_missing_normalisation_is_told_but_is_no_mismatch() -> None:
    class Normalising(Chat):
        def encode(self, text: str) -> list[int]:
            return super().encode(unicodedata.normalize("NFC", text))

    metrics, notes = measured(Normalising(), Engine())
    assert metrics["template.token_mismatches"] == 0
    assert notes == []
    assert "decomposed accents" in normalisation_notes(Normalising(), Engine())[0]
    assert normalisation_notes(Chat(), Engine()) == []


@pytest.mark.parametrize(
    ("end_of_turn", "words"), [(7, "ends a turn with token 7"), (None, "no special token ends")]
)
def test_end_of_turn_must_be_an_end_of_sequence(end_of_turn: int | None, words: str) -> None:
    metrics, notes = measured(Chat(), Engine(), end_of_turn)
    assert metrics["template.eos_missing"] == 1
    assert words in notes[0]


def test_conversations_cover_what_templates_trip_over() -> None:
    texts = [message.content for each in CONVERSATIONS for message in each.messages]
    assert "" in texts
    assert any("\u202b" in text or "ء" <= text[0] <= "ي" for text in texts if text)
    assert any(unicodedata.normalize("NFD", text) != text for text in texts)
    assert len({each.name for each in CONVERSATIONS}) == len(CONVERSATIONS)
