"""How people say an answer in English: numbers, times, rooms, whole commands, small talk.

Only wording is decided here; whether a value makes sense is not.
"""

from random import Random

from demo.answers import Answer, Value
from demo.phrasings import (
    CLOSINGS,
    OPENINGS,
    ROOM_ALIASES,
    SMALL_NUMBERS,
    SMALL_TALK,
    TENS,
    WORDINGS,
)

LARGEST_SPELLED_NUMBER = 120


def spell_number(number: int) -> str:
    """Spell a whole number from 0 to 120 in words."""
    if number >= 100:
        rest = number - 100
        return "one hundred" + (f" and {spell_number(rest)}" if rest else "")
    if number < len(SMALL_NUMBERS):
        return SMALL_NUMBERS[number]
    tens, units = divmod(number, 10)
    return TENS[tens - 2] + (f" {SMALL_NUMBERS[units]}" if units else "")


def say_number(number: int | float, rng: Random) -> str:
    """Say a number in digits, or, if it is small enough, half of the time in words."""
    spelled = 0 <= number <= LARGEST_SPELLED_NUMBER and rng.random() < 0.5
    if not spelled:
        return str(number)
    if isinstance(number, int):
        return spell_number(number)
    return f"{spell_number(int(number))} and a half"


def say_time(time: str, rng: Random) -> str:
    """Say a time of day (HH:MM) on the 24-hour or the 12-hour clock, in digits or in words.

    A time that no clock shows is given as it is, since no one would say it otherwise.
    """
    hour, minute = int(time[:2]), int(time[3:])
    if hour > 23 or rng.random() < 0.3:
        return time
    if time in ("12:00", "00:00") and rng.random() < 0.4:
        return "noon" if time == "12:00" else "midnight"
    if minute and rng.random() < 0.5:
        return f"{hour % 12 or 12}:{minute:02d} {_half_of_day(hour)}"
    past = {0: "", 15: "quarter past ", 30: "half past ", 45: "quarter to "}[minute]
    named_hour = (hour + 1) % 24 if minute == 45 else hour
    return f"{past}{_say_hour(named_hour, rng)}"


def _say_hour(hour: int, rng: Random) -> str:
    twelve_hour = hour % 12 or 12
    said = spell_number(twelve_hour) if rng.random() < 0.3 else str(twelve_hour)
    return f"{said} {_half_of_day(hour)}"


def _half_of_day(hour: int) -> str:
    return "am" if hour < 12 else "pm"


def say_room(room: str, rng: Random) -> str:
    """Name the room, now and then by its alias."""
    return ROOM_ALIASES[room] if room in ROOM_ALIASES and rng.random() < 0.35 else room


def say_slot(slot: str, value: Value, rng: Random) -> str:
    """Say the value of one slot, without the words around it."""
    if slot == "time":
        return say_time(str(value), rng)
    if slot == "room":
        return say_room(str(value), rng)
    return value if isinstance(value, str) else say_number(value, rng)


def say_command(answer: Answer, rng: Random) -> str:
    """Ask for the answer in one bare clause, with every one of its slots."""
    intent = str(answer["intent"])
    said = {slot: say_slot(slot, value, rng) for slot, value in answer.items()}
    command = rng.choice(WORDINGS[intent]).format(**said)
    if "day" in answer:
        command += " tomorrow" if answer["day"] == "tomorrow" else f" on {said['day']}"
    if "volume" in answer:
        command += f" at volume {said['volume']}"
    if "time" in answer and intent != "alarm_set":
        command += f" at {said['time']}"
    return command


def in_a_sentence(command: str, rng: Random) -> str:
    """Dress a bare clause up: a polite word or two, a capital letter, a full stop."""
    sentence = rng.choice(OPENINGS) + command + rng.choice(CLOSINGS)
    return with_random_capital(sentence + rng.choice(("", ".", ".", "!")), rng)


def with_random_capital(text: str, rng: Random) -> str:
    """Start the text with a capital letter half of the time."""
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def in_small_talk(sentence: str, sentences: int, rng: Random) -> str:
    """Put the sentence somewhere among that many sentences of small talk."""
    if sentences == 0:
        return sentence
    talk = [rng.choice(SMALL_TALK) for _ in range(sentences)]
    closed = sentence if sentence[-1] in ".!?" else sentence + "."
    talk.insert(rng.randint(0, sentences), closed)
    return " ".join(talk)
