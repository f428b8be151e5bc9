"""The form of an answer: JSON as the domain writes it, a cycle, foreign letters, a refusal.

Texts and tokens in, facts out. What is right is not known here, nor what a model may do.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.core.records import Question
from tasks.examine.protocol import ideal_text

Schema = dict[str, Any]

# More forms than this are no one schema that an application would write.
MOST_FORMS = 32


# ---------------------------------------------------------------- JSON


@dataclass(frozen=True)
class JsonForms:
    """The JSON that a file's `json` questions ask for: the keys and types of right answers.

    An application that constrains its model knows which objects there are, not which values: so
    every distinct form is one choice of the schema, and no value is. Keys keep the order of the
    ideal answers, because constrained decoding writes them in the schema's order.

    Attributes:
        count: distinct forms.
        by_category: one schema for each category, because there are too many forms for one.
        bounded: by category, or under "" for all; with bounds, see `bounded_schema`.
    """

    count: int
    by_category: bool
    bounded: Mapping[str, Schema]

    @classmethod
    def of(cls, questions: Sequence[Question]) -> JsonForms:
        """Read the forms from the right answers to questions of the kind `json`."""
        asked = [question for question in questions if question.expectation.kind == "json"]
        everywhere = _by_form(map(_ideal_value, asked))
        if len(everywhere) <= MOST_FORMS:
            return cls(len(everywhere), by_category=False, bounded={"": _any_of(everywhere)})
        grouped: dict[str, list[Any]] = {}
        for question in asked:
            grouped.setdefault(question.category, []).append(_ideal_value(question))
        schemas = {category: _any_of(_by_form(values)) for category, values in grouped.items()}
        return cls(len(everywhere), by_category=True, bounded=schemas)

    def schema(self, question: Question) -> Schema | None:
        """Give the schema that answers have to satisfy, or None where no JSON is asked for."""
        if question.expectation.kind == "json_schema":
            return dict(question.expectation.value)
        bounded = self.bounded_schema(question)
        return None if bounded is None else _unbounded(bounded)

    def bounded_schema(self, question: Question) -> Schema | None:
        """Give the domain's schema with bounds that let every answer end, for `json` questions.

        Texts and arrays may be twice as long as the longest in a right answer, numbers have one
        digit more: without bounds a model with random weights writes digits and letters for ever
        (measured, ONNX Runtime GenAI 0.18).
        """
        if question.expectation.kind != "json":
            return None
        return self.bounded[question.category if self.by_category else ""]


def _ideal_value(question: Question) -> Any:
    return json.loads(ideal_text(question) or "null")


def _by_form(values: Iterable[Any]) -> list[list[Any]]:
    groups: dict[Hashable, list[Any]] = {}
    for value in values:
        groups.setdefault(_form(value), []).append(value)
    return list(groups.values())


def _form(value: Any) -> Hashable:
    if isinstance(value, dict):
        return tuple((key, _form(part)) for key, part in value.items())
    return str(type(value))  # of arrays too: what is in them is one choice for all of them


def _any_of(groups: Sequence[Sequence[Any]]) -> Schema:
    schemas = [_bounded_schema(values) for values in groups]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _bounded_schema(values: Sequence[Any]) -> Schema:
    """Describe values of one form."""
    kind = type(values[0])
    if kind is dict:
        properties = {key: _bounded_schema([one[key] for one in values]) for key in values[0]}
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }
    if kind is list:
        items = _by_form(item for one in values for item in one)
        longest = {"type": "array", "maxItems": 2 * max(map(len, values))}
        return {**longest, "items": _any_of(items)} if items else longest
    return _SCALARS[kind](values)


def _text_schema(values: Sequence[str]) -> Schema:
    return {"type": "string", "maxLength": max(2 * max(map(len, values)), 1)}


def _integer_schema(values: Sequence[int]) -> Schema:
    return {"type": "integer", **_range(values)}


def _number_schema(values: Sequence[float]) -> Schema:
    bounds = _range(values)
    decimals = max(1, *(_decimals(value) for value in values))
    if bounds and decimals <= _MOST_DECIMALS:
        bounds["multipleOf"] = float(Decimal(1).scaleb(-decimals))
    return {"type": "number", **bounds}


def _range(values: Sequence[float]) -> Schema:
    largest = max(map(abs, values))
    if largest >= _LARGEST:  # infinity too: 1e999 is JSON
        return {}
    most = int("9" * (len(str(int(largest))) + 1))
    return {"minimum": -most, "maximum": most}


def _decimals(value: float) -> int:
    exponent = Decimal(repr(value)).as_tuple().exponent
    return -exponent if isinstance(exponent, int) else 0


_SCALARS: dict[type, Callable[[Sequence[Any]], Schema]] = {
    str: _text_schema,
    int: _integer_schema,
    float: _number_schema,
    bool: lambda _values: {"type": "boolean"},
    type(None): lambda _values: {"type": "null"},
}
_LARGEST = 1e15  # more digits do not survive a double
_MOST_DECIMALS = 6
_BOUNDS = ("maxLength", "maxItems", "minimum", "maximum", "multipleOf")


def _unbounded(schema: Schema) -> Schema:
    kept = {key: value for key, value in schema.items() if key not in _BOUNDS}
    if "properties" in kept:
        parts = kept["properties"].items()
        kept["properties"] = {name: _unbounded(part) for name, part in parts}
    if "items" in kept:
        kept["items"] = _unbounded(kept["items"])
    if "anyOf" in kept:
        kept["anyOf"] = [_unbounded(part) for part in kept["anyOf"]]
    return kept


# ---------------------------------------------------------------- cycles

_LONGEST_PERIOD = 32
_LEAST_REPEATS = 3
_LEAST_TOKENS = 16


def ends_in_cycle(tokens: Sequence[int]) -> bool:
    """Tell whether an answer ends by repeating itself.

    Its last tokens are one sequence of at most 32 tokens, three times or more, over 16 tokens or
    more. Three repeats at the end is the measure of Holtzman et al., "The Curious Case of Neural
    Text Degeneration", ICLR 2020, section 5; the 16 tokens keep "no, no, no" and a row of dashes
    apart from a model that has lost its way.

    Args:
        tokens: the answer's, without the end-of-sequence token.
    """
    seen = np.asarray(tokens)
    longest = min(_LONGEST_PERIOD, len(seen) // _LEAST_REPEATS)
    return any(
        _periodic_tail(seen, period) >= max(_LEAST_TOKENS, _LEAST_REPEATS * period)
        for period in range(1, longest + 1)
    )


def _periodic_tail(seen: NDArray[np.int64], period: int) -> int:
    breaks = np.flatnonzero(seen[period:] != seen[:-period])
    return len(seen) - (int(breaks[-1]) + 1 if len(breaks) else 0)


# ---------------------------------------------------------------- scripts

# Japanese writes all of these in one sentence.
_FAMILIES = {"HIRAGANA": "CJK", "KATAKANA": "CJK"}


def scripts(text: str) -> Counter[str]:
    """Count the letters of a text by script: the first word of their Unicode names.

    The standard library has no script property. Letters that only look different (fullwidth,
    mathematical, the micro sign) belong to no script here.
    """
    found = Counter(map(_script, text))
    del found[""]
    return found


def foreign_scripts(text: str, known: Iterable[str]) -> set[str]:
    """Give the scripts of a text that are in none of the known texts.

    Latin only where no letter is of a known script, because names, units and keys are Latin in
    every language; one Greek letter is a symbol. Where the known texts have no letter at all,
    nothing is foreign.
    """
    expected = set().union(*map(scripts, known))
    found = scripts(text)
    foreign = {script for script in found if expected and script not in expected}
    if found["GREEK"] == 1:
        foreign.discard("GREEK")
    if not expected.isdisjoint(found):
        foreign.discard("LATIN")
    return foreign


@lru_cache(maxsize=65536)
def _script(character: str) -> str:
    if unicodedata.category(character) not in ("Lu", "Ll", "Lt", "Lo"):
        return ""
    if unicodedata.decomposition(character).startswith("<"):
        return ""
    word = unicodedata.name(character, "").partition(" ")[0]
    return _FAMILIES.get(word, word)


# ---------------------------------------------------------------- refusals

_REFUSALS = (
    *("i can't", "i cannot", "i can not", "i am unable", "i'm unable", "i am not able"),
    *("i'm not able", "i won't", "i must decline", "i'm sorry", "i am sorry", "i apologize"),
    *("as an ai", "as a language model", "i can only help", "i can only assist"),
    *("ich kann nicht", "ich kann ihnen nicht", "ich kann dir nicht", "kann ich nicht"),
    *("ich kann nur", "tut mir leid", "als ki"),
    *("je ne peux pas", "je ne suis pas en mesure", "je suis désolé", "je ne peux que"),
    *("no puedo", "lo siento", "solo puedo", "non posso", "mi dispiace", "posso solo"),
    *("não posso", "sinto muito", "só posso", "ik kan niet", "ik kan je niet", "het spijt me"),
    *("我不能", "我无法", "抱歉", "对不起", "申し訳", "できません", "죄송", "할 수 없습니다"),
    *("я не могу", "извините", "к сожалению"),
)


def is_refusal(text: str) -> bool:
    """Tell whether an answer has one of the phrases with which models decline.

    A list of phrases in eleven languages. It can't see a refusal in other words ("That value is
    out of range") or languages, and takes "I'm sorry for your loss" for one: compare it with the
    reference's answers to the same questions, and read it as a warning.
    """
    plain = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    return any(phrase in plain for phrase in _REFUSALS)
