"""Greedy answers that change are counted by how they were asked, and named."""

from __future__ import annotations

from dataclasses import dataclass, field

from tasks.core.records import ExaminationProfile
from tasks.examine.decode import _repeats
from tasks.examine.protocol import Protocol
from tasks.examine.sequences import Forced

FIRST, SECOND = Forced("q-1", "a", [1, 2], [3]), Forced("q-2", "a", [4, 5], [6])


@dataclass
class Teller:
    """Answers with the prompt's sum, unless a fault is planted for that way of asking."""

    wrong_again: list[int] = field(default_factory=list)
    wrong_in_pieces: list[int] = field(default_factory=list)
    context_length: int = 64

    def complete(
        self, prompt: list[int], limit: int, *, chunk: int | None = None, afresh: bool = False
    ) -> int:
        planted = prompt == (self.wrong_in_pieces if chunk else self.wrong_again)
        return -1 if planted and not afresh else sum(prompt)


def repeats(engine: Teller) -> tuple[dict[str, float | None], list[str]]:
    metrics, notes = _repeats(
        engine, [FIRST, SECOND], Protocol.of(ExaminationProfile.STANDARD), lambda _: None
    )
    return {name: found.value for name, found in metrics.items()}, notes


def test_steady_engine_has_no_mismatch() -> None:
    values, notes = repeats(Teller())
    assert values == {"decode.repeat_mismatches": 0, "decode.chunk_mismatches": 0}
    assert notes == []


def test_answer_that_changes_when_asked_again_is_counted_and_named() -> None:
    values, notes = repeats(Teller(wrong_again=[4, 5]))
    assert values == {"decode.repeat_mismatches": 2, "decode.chunk_mismatches": 0}
    assert notes == ["asked again, other tokens: q-2"]


def test_answer_that_changes_in_pieces_is_counted_apart() -> None:
    values, notes = repeats(Teller(wrong_in_pieces=[1, 2]))
    assert values == {"decode.repeat_mismatches": 0, "decode.chunk_mismatches": 1}
    assert notes == ["asked in pieces, other tokens: q-1"]
