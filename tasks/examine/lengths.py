"""Are questions still answered when they stand in the middle of a long, neutral text?

A question of the domain is the needle: what can be found is decided by the user's own questions.
Every question is asked once, at one length and depth. Items of one question are correlated, and
where nothing changes nobody can tell how much: 12 questions at 9 places are 108 items, but for a
careful interval only 12. 72 questions at one place each are 72, for fewer tokens.

Knows filler and places; what a right answer is, tasks/core/questions.py says.
"""

from __future__ import annotations

import math
import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Protocol as Interface

import pandas as pd

from tasks.core.questions import is_right
from tasks.core.records import Message, Question
from tasks.examine.filler import SENTENCES
from tasks.examine.metrics import Metrics, not_applicable, paired_change, share
from tasks.examine.protocol import LengthPlan, Protocol, sample_questions

METRIC_NAMES = (
    "lengths.found_reference",
    "lengths.found",
    "lengths.found_delta",
    "lengths.filler_same",
    "lengths.filler_same_delta",
)

# A length at which the reference finds less than this is not compared: where most is lost already,
# losing nothing more would pass for evidence.
ABLE = 0.75
_OF_THE_CONTEXT = 0.9
_NAMED = 5
_KEY = ["question_id", "prompt_tokens_wanted", "depth"]
_COLUMNS = [*_KEY, "prompt_tokens", "text", "tokens", "right", "same_as_unfilled", "compared"]


class Tokenizing(Interface):
    """The checkpoint's tokenizer: what decides how much filler goes around a question."""

    def encode(self, text: str) -> list[int]:
        """Tokenise a text."""

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Give the token ids that ask for the next assistant turn."""


class Spoken(Interface):
    """What an engine said."""

    @property
    def tokens(self) -> list[int]:
        """New tokens."""


class Answering(Interface):
    """A loaded engine."""

    context_length: int

    def render(self, messages: Sequence[Message]) -> str:
        """Render a conversation."""

    def encode(self, text: str) -> list[int]:
        """Tokenise a rendered text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text."""

    def complete(self, prompt: Sequence[int], limit: int) -> Spoken:
        """Generate greedily."""


@dataclass(frozen=True)
class Filled:
    """One question in the middle of filler.

    Attributes:
        wanted: tokens that the prompt should have with the chat template.
        depth: share of the filler that stands before the question.
        prompt_tokens: tokens that it has, by the checkpoint's tokenizer.
    """

    question: Question
    wanted: int
    depth: float
    messages: list[Message]
    prompt_tokens: int


# ---------------------------------------------------------------- asking


@dataclass(frozen=True)
class Asking:
    """One engine that is asked, and what it takes to ask it.

    Attributes:
        engine: a loaded model folder.
        tokenizer: the checkpoint's, so that every engine gets the same prompts.
        unfilled: what this engine answered without filler, by question id.
        limits: new tokens at most, by question id; the context's end comes first.
        protocol: its LengthPlan says how many questions, how long and how deep.
        say: told how far it is.
    """

    engine: Answering
    tokenizer: Tokenizing
    unfilled: Mapping[str, str]
    limits: Mapping[str, int]
    protocol: Protocol
    say: Callable[[str], None]

    def ask(self, places: Iterable[tuple[Question, int, float]]) -> pd.DataFrame:
        """Ask questions at their places, given as (question, prompt tokens wanted, depth)."""
        rows: list[dict[str, object]] = []
        for question, wanted, depth in places:
            self.say(f"filled prompts of {wanted} tokens, {len(rows) + 1}")
            filled = fill(question, wanted, depth, self.tokenizer, self.protocol.seed)
            rows.append(self._row(filled))
        return pd.DataFrame(rows, columns=_COLUMNS)

    def _row(self, filled: Filled) -> dict[str, object]:
        question, engine = filled.question, self.engine
        prompt = engine.encode(engine.render(filled.messages))
        room = engine.context_length - len(prompt)
        completion = engine.complete(prompt, min(self.limits[question.id], room))
        text = engine.decode(completion.tokens)
        return {
            "question_id": question.id,
            "prompt_tokens_wanted": filled.wanted,
            "depth": filled.depth,
            "prompt_tokens": filled.prompt_tokens,
            "text": text,
            "tokens": completion.tokens,
            "right": is_right(question.expectation, text),
            "same_as_unfilled": text == self.unfilled[question.id],
            "compared": True,
        }


def ask_reference(
    asking: Asking, questions: Sequence[Question], right: Iterable[str]
) -> tuple[pd.DataFrame, list[str]]:
    """Ask the reference, the shorter prompts first, up to a length that is too much for it.

    What is left of the plan's questions is asked at the lengths that are not. Single turns only,
    and no blank ones, which filler turns into something else.

    Args:
        asking: the reference.
        questions: those that it answered without filler.
        right: ids of those that it answered right.

    Returns:
        A row a question: question_id, prompt_tokens_wanted, depth, prompt_tokens (by the
        checkpoint's tokenizer), text, tokens, right, same_as_unfilled, compared (variants are
        asked those rows only); and in words what was left out.

    Raises:
        VariantUnusable: the engine failed.
        DoesNotFit: memory ran out.
    """
    plan, seed = asking.protocol.length, asking.protocol.seed
    context = asking.engine.context_length
    lengths = sorted(one for one in plan.prompt_tokens if one <= _OF_THE_CONTEXT * context)
    known = set(right)
    suitable = [one for one in questions if one.id in known and _is_one_turn(one)]
    deck = _Deck(sample_questions(suitable, plan.questions * 2, seed), plan, asking.tokenizer, seed)
    frames = []
    able: list[int] = []
    for wanted in lengths:
        rows = asking.ask(deck.deal([wanted], math.ceil(plan.questions / len(lengths))))
        is_able = bool(rows["right"].astype(float).mean() >= ABLE)
        frames.append(rows.assign(compared=is_able))
        able += [wanted] if is_able else []
        if len(rows) and not is_able:
            break
    asked = sum(int(frame["compared"].sum()) for frame in frames)
    frames.append(asking.ask(deck.deal(able, plan.questions - asked)))
    filled = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(filled, ignore_index=True), _left_out(plan, lengths, able, context)


def ask_variant(
    asking: Asking, questions: Iterable[Question], reference: pd.DataFrame
) -> pd.DataFrame:
    """Ask a variant what the reference was asked, at the lengths that are compared.

    Args:
        asking: the variant.
        questions: at least those that the reference was asked.
        reference: its rows.

    Raises:
        VariantUnusable: the engine failed.
        DoesNotFit: memory ran out.
    """
    by_id = {question.id: question for question in questions}
    rows = _compared(reference)[_KEY].itertuples(index=False)
    return asking.ask((by_id[row[0]], int(row[1]), float(row[2])) for row in rows)


def _compared(reference: pd.DataFrame) -> pd.DataFrame:
    return reference[reference["compared"].astype(bool)]


def _is_one_turn(question: Question) -> bool:
    turns = [message for message in question.messages if message.role != "system"]
    return len(turns) == 1 and bool(turns[0].content.strip())


def _left_out(
    plan: LengthPlan, lengths: Sequence[int], able: Sequence[int], context: int
) -> list[str]:
    notes = []
    if too_long := sorted(set(plan.prompt_tokens) - set(lengths)):
        named = ", ".join(map(str, too_long))
        notes.append(f"no filled prompts of {named} tokens: the context has {context}")
    if unable := sorted(set(lengths) - set(able)):
        named = ", ".join(map(str, unable))
        notes.append(
            f"filled prompts of {named} tokens are not compared: the model finds less than "
            f"{ABLE:.0%} of its questions there, or at a shorter length, or none fits"
        )
    return notes


# ---------------------------------------------------------------- filling


class _Deck:
    """Questions in a fixed random order, dealt out to lengths and depths in turn, each once."""

    def __init__(
        self, questions: list[Question], plan: LengthPlan, tokenizer: Tokenizing, seed: int
    ) -> None:
        random.Random(seed).shuffle(questions)  # noqa: S311  (repeatable, not secret)
        self._waiting = [(one, len(tokenizer.prompt(one.messages))) for one in questions]
        # Room for a sentence on either side.
        self._least = 2 * max(len(tokenizer.encode(f" {sentence}")) for sentence in SENTENCES)
        self._depths = plan.depths

    def deal(self, lengths: Sequence[int], count: int) -> list[tuple[Question, int, float]]:
        """Give this many questions a length and a depth, or as many as fit."""
        places = [(wanted, depth) for wanted in lengths for depth in self._depths]
        dealt = []
        for wanted, depth in islice(cycle(places), max(0, count)):
            question = self._first_that_fits(wanted)
            if question is not None:
                dealt.append((question, wanted, depth))
        return dealt

    def _first_that_fits(self, wanted: int) -> Question | None:
        for index, (question, own) in enumerate(self._waiting):
            if own + self._least <= wanted:
                del self._waiting[index]
                return question
        return None


def fill(question: Question, wanted: int, depth: float, tokenizer: Tokenizing, seed: int) -> Filled:
    """Put the last message of a question into filler, no more than fits into the wanted length.

    Args:
        question: of one turn.
        wanted: tokens that the prompt is to have with the chat template.
        depth: share of the filler that goes before the question, 0 to 1.
        tokenizer: the checkpoint's.
        seed: with the question's id it decides with which sentence the filler begins.
    """
    *before, last = question.messages
    filler: list[str] = []
    room = wanted - len(tokenizer.prompt(question.messages))
    for sentence in _sentences(f"{seed}\0{question.id}"):
        room -= len(tokenizer.encode(f" {sentence}"))
        if room < 0:
            break
        filler.append(sentence)
    ahead = round(depth * len(filler))
    text = " ".join([*filler[:ahead], _closed(last.content.strip()), *filler[ahead:]])
    messages = [*before, Message(role="user", content=text)]
    return Filled(question, wanted, depth, messages, len(tokenizer.prompt(messages)))


def _sentences(start: str) -> Iterator[str]:
    """Give the filler in its order without end, from a place that depends on the question."""
    first = random.Random(start).randrange(len(SENTENCES))  # noqa: S311
    return islice(cycle(SENTENCES), first, None)


def _closed(text: str) -> str:
    """End a sentence that has no end, or the next one would run on from it."""
    return text if unicodedata.category(text[-1]).startswith("P") else f"{text}."


# ---------------------------------------------------------------- numbers


def length_metrics(reference: pd.DataFrame, variant: pd.DataFrame, protocol: Protocol) -> Metrics:
    """Summarise a variant's answers at the lengths that the reference is able to.

    Args:
        reference: its rows, at all lengths that it was asked at.
        variant: its rows at those that the reference is able to.
        protocol: for the level of the intervals.
    """
    if reference.empty:
        reason = "no question of one turn that the reference answers right fits into the filler"
        return dict.fromkeys(METRIC_NAMES, not_applicable(reason))
    able = _compared(reference)
    if able.empty:
        return _nothing_to_lose(reference, protocol)
    both = able.merge(variant, on=_KEY, suffixes=("_before", ""), validate="1:1")
    assert len(both) == len(able) == len(variant), "the variant was asked something else"
    where = ", ".join(map(str, sorted(set(able["prompt_tokens_wanted"]))))
    how = f"each question once, in prompts of {where} tokens"
    level = protocol.level
    return {
        "lengths.found_reference": share(both["right_before"], f"FP32 model, {how}", level=level),
        "lengths.found": share(both["right"], f"right in filler, {how}", level=level),
        "lengths.found_delta": paired_change(
            both["right_before"],
            both["right"],
            f"right in filler, variant minus reference, {how}",
            level=level,
        ),
        **_same_answers(both["same_as_unfilled_before"], both["same_as_unfilled"], how, level),
    }


def _same_answers(
    before: pd.Series[bool], after: pd.Series[bool], how: str, level: float
) -> Metrics:
    said = f"answered as without filler, {how}"
    if before.mean() >= ABLE:
        delta = paired_change(before, after, f"{said}, variant minus reference", level=level)
    else:
        delta = not_applicable("the reference itself seldom says the same with and without filler")
    return {
        "lengths.filler_same": share(after, said, level=level),
        "lengths.filler_same_delta": delta,
    }


def _nothing_to_lose(reference: pd.DataFrame, protocol: Protocol) -> Metrics:
    asked = ", ".join(map(str, sorted(set(reference["prompt_tokens_wanted"]))))
    reason = (
        f"the reference itself finds less than {ABLE:.0%} of its questions in filler of {asked} "
        "tokens: there is nothing that quantisation could have cost"
    )
    found = share(reference["right"], "FP32 model, right in filler", level=protocol.level)
    rest = dict.fromkeys(METRIC_NAMES[1:], not_applicable(reason))
    return {"lengths.found_reference": found, **rest}


def length_notes(reference: pd.DataFrame, variant: pd.DataFrame) -> list[str]:
    """Name questions that the variant no longer finds, with their places."""
    both = reference.merge(variant, on=_KEY, suffixes=("_before", ""))
    lost = both[both["right_before"].astype(bool) & ~both["right"].astype(bool)]
    if lost.empty:
        return []
    named = ", ".join(
        f"{row.question_id} at {row.depth:.0%} of {row.prompt_tokens_wanted} tokens"
        for row in lost.head(_NAMED).itertuples()
    )
    return [f"lost in filler: {len(lost)} of {len(both)} questions, such as {named}"]
