"""What users type that is no valid home command: other topics, noise, nothing, impossible values.

Each text has exactly one right answer, a refusal; which one is named by the caller.
"""

import string
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from demo.answers import LIMITS, Answer, Split, belongs_to, draw_any_answer
from demo.phrasings import (
    ANY_RULES,
    EMPTY_CHARACTERS,
    EMPTY_HELD_OUT,
    EMPTY_SEEN,
    GENRES,
    NAMES,
    NAMES_HELD_OUT,
    NOUNS,
    NOUNS_HELD_OUT,
    OFF_TOPIC,
    OFF_TOPIC_HELD_OUT,
    ROOMS,
    VERBS,
    VERBS_HELD_OUT,
)
from demo.speech import in_a_sentence, say_command, with_random_capital

NOISE_SHARE: Final = 0.35
# Latin with accents, Greek, Cyrillic, Chinese, emoji.
FOREIGN_RANGES: Final = (
    (0xC0, 0x17F),
    (0x391, 0x3C9),
    (0x410, 0x44F),
    (0x4E00, 0x4FFF),
    (0x1F600, 0x1F640),
)
CODE_CHARACTERS: Final = string.ascii_letters + string.digits + "!#%&/()=?*+;:<>[]{}|"


# ---------------------------------------------------------------- out of scope
def out_of_scope_text(rng: Random, split: Split) -> str:
    """Write something that no home can do: a question on another topic, or noise.

    The held-out split has its own sentences and its own words, and no noise.
    """
    if split == "held_out":
        text = _fill(OFF_TOPIC_HELD_OUT, NOUNS_HELD_OUT, VERBS_HELD_OUT, NAMES_HELD_OUT, rng)
    elif rng.random() < NOISE_SHARE:
        return noise(rng)
    else:
        text = _fill(OFF_TOPIC, NOUNS, VERBS, NAMES, rng)
    return with_random_capital(text + rng.choice(("", "?", ".")), rng)


def any_rule(rng: Random) -> str:
    """Write a sentence for a system prompt, of no consequence for home commands."""
    return _fill(ANY_RULES, NOUNS, VERBS, NAMES, rng)


def _fill(
    sentences: Sequence[str],
    nouns: Sequence[str],
    verbs: Sequence[str],
    names: Sequence[str],
    rng: Random,
) -> str:
    draw_word: dict[str, Callable[[], str]] = {
        "{noun}": lambda: rng.choice(nouns),
        "{verb}": lambda: rng.choice(verbs),
        "{name}": lambda: rng.choice(names),
        "{number}": lambda: str(rng.randint(2, 999)),
        "{digit}": lambda: rng.choice(string.digits),
        "{room}": lambda: rng.choice(ROOMS),
        "{genre}": lambda: rng.choice(GENRES),
    }
    text = rng.choice(sentences)
    for gap, draw in draw_word.items():
        while gap in text:
            text = text.replace(gap, draw(), 1)
    return text


def noise(rng: Random) -> str:
    """Write letters, digits, code, foreign script or shuffled words that mean nothing."""
    kinds = (_repeats, _gibberish, _code, _digits, _foreign_script, _word_salad)
    return rng.choices(kinds, weights=(6, 34, 15, 15, 15, 15))[0](rng)


def _letters(rng: Random, count: int, alphabet: str = string.ascii_lowercase) -> str:
    return "".join(rng.choice(alphabet) for _ in range(count))


def _repeats(rng: Random) -> str:
    units = (
        _letters(rng, 1),
        _letters(rng, 2),
        _letters(rng, 4) + " ",
        rng.choice(NOUNS) + " ",
        _digits(rng)[:1],
    )
    return rng.choice(units) * rng.randint(4, 40)


def _gibberish(rng: Random) -> str:
    return " ".join(_letters(rng, rng.randint(2, 9)) for _ in range(rng.randint(1, 5)))


def _code(rng: Random) -> str:
    return _letters(rng, rng.randint(3, 16), CODE_CHARACTERS)


def _digits(rng: Random) -> str:
    return _letters(rng, rng.randint(1, 10), string.digits)


def _foreign_script(rng: Random) -> str:
    count = rng.randint(1, 6)
    return "".join(chr(rng.randint(*rng.choice(FOREIGN_RANGES))) for _ in range(count))


def _word_salad(rng: Random) -> str:
    def word() -> str:
        gibberish = _letters(rng, rng.randint(2, 8))
        return rng.choice((rng.choice(NOUNS), rng.choice(VERBS), gibberish))

    return " ".join(word() for _ in range(rng.randint(2, 8)))


# ---------------------------------------------------------------- nothing
def empty_text(rng: Random) -> str:
    """Write nothing, or only blanks and full stops: a text that training may see."""
    if rng.random() < 0.5:
        return rng.choice(EMPTY_SEEN)
    while True:
        text = _letters(rng, rng.randint(1, 5), EMPTY_CHARACTERS)
        if text not in EMPTY_HELD_OUT:
            return text


# ---------------------------------------------------------------- impossible values
def invalid_value_text(rng: Random, split: Split) -> str:
    """Ask for a level, temperature, time, volume or duration that lies outside the limits."""
    while True:
        request = _invalid_request(rng)
        if belongs_to(request, split):
            return in_a_sentence(say_command(request, rng), rng)


def _invalid_request(rng: Random) -> Answer:
    """Draw a request with one impossible value, in the shape of the answer it cannot have."""
    intent, slot = rng.choice(
        (
            ("light_set", "level"),
            ("light_set", "level"),
            ("heat_set", "celsius"),
            ("heat_set", "celsius"),
            ("timer_set", "minutes"),
            ("music_play", "volume"),
            ("light_on", "time"),
            ("light_off", "time"),
            ("blinds_open", "time"),
            ("alarm_set", "time"),
        )
    )
    request = draw_any_answer(rng, intent)
    request[slot] = _impossible_time(rng) if slot == "time" else _impossible_number(slot, rng)
    return request


def _impossible_time(rng: Random) -> str:
    return f"{rng.randint(24, 99)}:{rng.choice(('00', '15', '30', '45'))}"


def _impossible_number(slot: str, rng: Random) -> int:
    low, high = LIMITS[slot]
    if rng.random() < 0.75:
        return rng.randint(high + 1, 999 if high >= 100 else 300)
    return low - rng.randint(1, 99) if slot in ("level", "celsius") else low - 1
