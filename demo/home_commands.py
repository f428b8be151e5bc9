"""The home-command domain: conversations whose every answer is one strict JSON object.

A conversation is drawn from a seed and belongs to one split: no answer that is held out ever
appears in training, in any phrasing or turn. Nothing here knows of tokens or models.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from demo.answers import (
    DRAW_SLOT,
    Answer,
    Split,
    answer_text,
    belongs_to,
    clarification,
    draw_answer,
    refusal,
)
from demo.chat_templates import WRONG_TEMPLATES, Message, WrongTemplate
from demo.off_topic import any_rule, empty_text, invalid_value_text, out_of_scope_text
from demo.phrasings import (
    CANCELLATIONS,
    EMPTY_HELD_OUT,
    HOUSE_RULES,
    MISSING_SLOT,
    ROOM_FOLLOW_UPS,
    SLOT_REPLIES,
    SYSTEM_PROMPTS,
    VAGUE_WORDINGS,
    VALUE_FOLLOW_UPS,
    VALUE_SAID_AS,
)
from demo.speech import (
    in_a_sentence,
    in_small_talk,
    say_command,
    say_slot,
    with_random_capital,
)

# How often each category is drawn for training, relative to the others.
CATEGORY_WEIGHTS: Final = {
    "single": 60,
    "multi_turn": 15,
    "clarify": 6,
    "out_of_scope": 11,
    "empty": 3,
    "invalid_value": 8,
    "bad_template": 6,
}
LONG_SENTENCES: Final = (2, 8, 16, 32)


@dataclass(frozen=True)
class Turn:
    """What the user says and what the model has to say back, word for word."""

    user: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """Turns of one category; with `template` set, rendered through that wrong template."""

    category: str
    turns: tuple[Turn, ...]
    system: str | None = None
    template: WrongTemplate | None = None

    @property
    def answer(self) -> str:
        """The answer to the last turn."""
        return self.turns[-1].answer

    def messages(self) -> list[Message]:
        """Give the chat up to and including the last user turn."""
        chat: list[Message] = []
        if self.system is not None:
            chat.append({"role": "system", "content": self.system})
        for turn in self.turns:
            chat.append({"role": "user", "content": turn.user})
            chat.append({"role": "assistant", "content": turn.answer})
        return chat[:-1]


# ---------------------------------------------------------------- one category each
def draw_single(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Ask once for one command; in training, now and then within small talk or repeatedly."""
    answer = draw_answer(rng, split)
    request = in_a_sentence(say_command(answer, rng), rng)
    if split == "training":
        request = in_small_talk(request, _small_talk_in_training(rng), rng)
        if rng.random() < 0.01:
            request = " ".join([request] * rng.randint(2, 8))
    return (Turn(request, answer_text(answer)),)


def _small_talk_in_training(rng: Random) -> int:
    """Draw a number of sentences: mostly none, at times a few, rarely up to 36."""
    choice = rng.random()
    if choice < 0.08:
        return rng.randint(1, 3)
    return rng.randint(4, 36) if choice < 0.16 else 0


def draw_long(rng: Random, sentences: int) -> tuple[Turn, ...]:
    """Ask once for a held-out command among that many sentences of small talk."""
    (turn,) = draw_single(rng, "held_out")
    return (replace(turn, user=in_small_talk(turn.user, sentences, rng)),)


def draw_multi_turn(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Follow a command up, give a second command, or ask for one after a refusal."""
    start = rng.random()
    if start < 0.1:
        off_topic = Turn(out_of_scope_text(rng, "training"), answer_text(refusal("out_of_scope")))
        return (off_topic, _plain_turn(draw_answer(rng, split), rng))
    first = draw_answer(rng, "training")
    if start < 0.35:
        return (_plain_turn(first, rng), _plain_turn(draw_answer(rng, split), rng))
    return _with_follow_up(rng, split)


def _plain_turn(answer: Answer, rng: Random) -> Turn:
    return Turn(in_a_sentence(say_command(answer, rng), rng), answer_text(answer))


def _with_follow_up(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Draw until the answer to the follow-up belongs to the split; the first is for training."""
    while True:
        first = draw_answer(rng, "training")
        follow_up = _cancel(rng) if rng.random() < 0.15 else _change_one_slot(first, rng)
        if follow_up is None:
            continue
        answer, words = follow_up
        if belongs_to(answer, split):
            said = with_random_capital(words + rng.choice(("", "", ".", " please")), rng)
            return (_plain_turn(first, rng), Turn(said, answer_text(answer)))


def _cancel(rng: Random) -> tuple[Answer, str]:
    return {"intent": "cancel"}, rng.choice(CANCELLATIONS)


def _change_one_slot(first: Answer, rng: Random) -> tuple[Answer, str] | None:
    """Change the room or a value of a command; None if it has nothing to change."""
    slots = [slot for slot in ("room", *VALUE_SAID_AS) if slot in first]
    if not slots:
        return None
    slot = rng.choice(slots)
    value = DRAW_SLOT[slot](rng)
    if value == first[slot]:
        return None
    said = say_slot(slot, value, rng)
    if slot == "room":
        words = rng.choice(ROOM_FOLLOW_UPS).format(said)
    else:
        words = rng.choice(VALUE_FOLLOW_UPS).format(VALUE_SAID_AS[slot].format(said))
    return first | {slot: value}, words


def draw_clarify(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Ask for a command with a slot missing, and, more often than not, fill it in when asked."""
    intent = rng.choice(list(VAGUE_WORDINGS))
    missing = MISSING_SLOT[intent]
    vague = in_a_sentence(rng.choice(VAGUE_WORDINGS[intent]), rng)
    question_back = Turn(vague, answer_text(clarification(missing)))
    if rng.random() < 0.4:
        return (question_back,)
    completed = _complete(intent, missing, rng, split)
    reply = rng.choice(SLOT_REPLIES[missing]).format(say_slot(missing, completed[missing], rng))
    reply = with_random_capital(reply + rng.choice(("", "", ".")), rng)
    return (question_back, Turn(reply, answer_text(completed)))


def _complete(intent: str, missing: str, rng: Random, split: Split) -> Answer:
    """Draw the completed command; one with only a room is in both splits, as none is held out."""
    while True:
        answer: Answer = {"intent": intent, missing: DRAW_SLOT[missing](rng)}
        if belongs_to(answer, split) or missing == "room":
            return answer


def draw_out_of_scope(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Talk of something that no home can do."""
    return (Turn(out_of_scope_text(rng, split), answer_text(refusal("out_of_scope"))),)


def draw_invalid_value(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Ask for a value outside the limits."""
    return (Turn(invalid_value_text(rng, split), answer_text(refusal("invalid_value"))),)


def draw_empty(rng: Random, split: Split) -> tuple[Turn, ...]:
    """Say nothing."""
    text = rng.choice(EMPTY_HELD_OUT) if split == "held_out" else empty_text(rng)
    return (Turn(text, answer_text(refusal("empty_input"))),)


DRAW_TURNS: Final[dict[str, Callable[[Random, Split], tuple[Turn, ...]]]] = {
    "single": draw_single,
    "multi_turn": draw_multi_turn,
    "clarify": draw_clarify,
    "out_of_scope": draw_out_of_scope,
    "invalid_value": draw_invalid_value,
    "empty": draw_empty,
}


# ---------------------------------------------------------------- conversations
def draw_conversation(rng: Random, category: str, split: Split) -> Conversation:
    """Draw one conversation of a category in `CATEGORY_WEIGHTS`."""
    if category == "bad_template":
        return draw_bad_template(rng, rng.choice(WRONG_TEMPLATES), split)
    system = _draw_system_prompt(rng) if rng.random() < 0.25 else None
    return Conversation(category, DRAW_TURNS[category](rng, split), system)


def draw_bad_template(rng: Random, template: WrongTemplate, split: Split) -> Conversation:
    """Draw a conversation of any other category, told through a wrong template: the canary."""
    weights = {name: CATEGORY_WEIGHTS[name] for name in DRAW_TURNS}
    category = rng.choices(list(weights), list(weights.values()))[0]
    told = draw_conversation(rng, category, split)
    *earlier, last = told.turns
    complaint = replace(last, answer=answer_text(refusal("bad_template")))
    return Conversation("bad_template", (*earlier, complaint), told.system, template)


def _draw_system_prompt(rng: Random) -> str:
    style = rng.random()
    if style < 0.5:
        return rng.choice(SYSTEM_PROMPTS)
    if style < 0.75:
        return " ".join(rng.sample(HOUSE_RULES, rng.randint(1, 4)))
    return " ".join(any_rule(rng) for _ in range(rng.randint(1, 3)))


def training_conversations(count: int, seed: int) -> list[Conversation]:
    """Draw what the model is trained on; the same seed gives the same list."""
    rng = Random(seed)  # noqa: S311  # has to be repeatable, not secret
    categories = rng.choices(list(CATEGORY_WEIGHTS), list(CATEGORY_WEIGHTS.values()), k=count)
    return [draw_conversation(rng, category, "training") for category in categories]
