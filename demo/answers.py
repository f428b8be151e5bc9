"""The answers of the home-command domain, and which of them training never sees.

Knows nothing of English: how a person asks for an answer is in `demo.speech`.
"""

import hashlib
import json
from collections.abc import Callable
from random import Random
from typing import Final, Literal

from demo.phrasings import DAYS, DOORS, GENRES, INTENT_WEIGHTS, QUESTIONS_BACK, REFUSALS, ROOMS

Value = str | int | float
# The key order is part of the answer: the model is trained to write exactly this text.
Answer = dict[str, Value]
Split = Literal["training", "held_out"]

# Inclusive; whatever is asked for outside of them is refused.
LIMITS: Final = {
    "level": (0, 100),
    "celsius": (10, 30),
    "minutes": (1, 120),
    "volume": (1, 50),
}
QUARTERS: Final = ("00", "00", "15", "30", "30", "45")
# Answers without any of these come from sets so small that holding some out would only teach
# the model that this room never has blinds.
HELD_OUT_SLOTS: Final = frozenset({"time", "level", "celsius", "minutes", "volume", "code"})
HELD_OUT_ONE_IN: Final = 8


def answer_text(answer: Answer) -> str:
    """Write the answer exactly as the model has to: compact JSON, keys in the answer's order."""
    return json.dumps(answer, separators=(",", ":"), ensure_ascii=False)


def is_held_out(answer: Answer) -> bool:
    """Tell whether the answer is kept from training, in every phrasing and every turn."""
    if HELD_OUT_SLOTS.isdisjoint(answer):
        return False
    return hashlib.sha256(answer_text(answer).encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def belongs_to(answer: Answer, split: Split) -> bool:
    """Tell whether the answer may be asked for in this split."""
    return is_held_out(answer) == (split == "held_out")


def refusal(reason: str) -> Answer:
    """Give the answer that turns a request down, in words a user can read."""
    return {"intent": "refuse", "reason": reason, "message": REFUSALS[reason]}


def clarification(missing: str) -> Answer:
    """Give the answer that asks for the slot the user left out."""
    return {"intent": "clarify", "missing": missing, "message": QUESTIONS_BACK[missing]}


def draw_time(rng: Random) -> str:
    """Draw a time of day on a quarter of an hour, as HH:MM."""
    return f"{rng.randrange(24):02d}:{rng.choice(QUARTERS)}"


def draw_celsius(rng: Random) -> int | float:
    """Draw a temperature in steps of half a degree; whole degrees are integers."""
    low, high = LIMITS["celsius"]
    halves = rng.randint(2 * low, 2 * high)
    return halves // 2 if halves % 2 == 0 else halves / 2


def draw_number(slot: str, rng: Random) -> int:
    """Draw a whole number within the limits of the slot."""
    return rng.randint(*LIMITS[slot])


DRAW_SLOT: Final[dict[str, Callable[[Random], Value]]] = {
    "room": lambda rng: rng.choice(ROOMS),
    "door": lambda rng: rng.choice(DOORS),
    "genre": lambda rng: rng.choice(GENRES),
    "day": lambda rng: rng.choice(DAYS),
    "code": lambda rng: f"{rng.randrange(10_000):04d}",
    "time": draw_time,
    "celsius": draw_celsius,
    "level": lambda rng: draw_number("level", rng),
    "minutes": lambda rng: draw_number("minutes", rng),
    "volume": lambda rng: draw_number("volume", rng),
}
REQUIRED_SLOTS: Final = {
    "light_on": ("room",),
    "light_off": ("room",),
    "light_set": ("room", "level"),
    "heat_set": ("room", "celsius"),
    "blinds_open": ("room",),
    "blinds_close": ("room",),
    "music_play": ("room", "genre"),
    "alarm_set": ("time",),
    "timer_set": ("minutes",),
    "lock": ("door",),
    "unlock": ("door", "code"),
}
# One slot that a user may add, and how often one does.
OPTIONAL_SLOT: Final = {
    "light_on": ("time", 0.65),
    "light_off": ("time", 0.65),
    "blinds_open": ("time", 0.65),
    "blinds_close": ("time", 0.65),
    "lock": ("time", 0.65),
    "music_play": ("volume", 0.6),
    "alarm_set": ("day", 0.6),
}


def draw_any_answer(rng: Random, intent: str | None = None) -> Answer:
    """Draw one valid command from either split; of `intent`, if given."""
    if intent is None:
        intent = rng.choices(list(INTENT_WEIGHTS), list(INTENT_WEIGHTS.values()))[0]
    slots = list(REQUIRED_SLOTS[intent])
    if intent in OPTIONAL_SLOT:
        slot, share = OPTIONAL_SLOT[intent]
        if rng.random() < share:
            slots.append(slot)
    return {"intent": intent} | {slot: DRAW_SLOT[slot](rng) for slot in slots}


def draw_answer(rng: Random, split: Split, intent: str | None = None) -> Answer:
    """Draw one valid command of the split.

    Only intents with a time, a number or a code have held-out answers; asking for another one
    would never end, so `intent` must be able to carry one of `HELD_OUT_SLOTS`.
    """
    while True:
        answer = draw_any_answer(rng, intent)
        if belongs_to(answer, split):
            return answer
