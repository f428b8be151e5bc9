"""Every edge case passes on an engine that behaves, and fails on one that does not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers

from tasks.core.errors import (
    ChildKilled,
    ChildTimedOut,
    DoesNotFit,
    InputError,
    ToolFailed,
    VariantUnusable,
)
from tasks.core.records import Cost, Evidence
from tasks.examine.edge import border
from tasks.examine.edge.case import Case, Seen, Subject, failure
from tasks.examine.edge.cases import run_case
from tasks.examine.edge.edge import is_the_cases_fault, outliving_deaths
from tasks.examine.edge.edge_child import edge_metrics, edge_notes
from tasks.examine.edge.engine_cases import engine_cases
from tasks.examine.edge.journal import Begun, Journal, Outcome
from tasks.examine.edge.plain_text import PlainTokenizer
from tasks.examine.edge.text_cases import text_cases

VOCABULARY, CONTEXT, END = 1024, 512, 1023


class Generator:
    """A sequence whose next token is decided by all tokens in it, as a model's is."""

    def __init__(self, max_length: int, min_length: int) -> None:
        self.max_length, self.min_length = max_length, min_length
        self.tokens: list[int] = []
        self.done = False

    def append(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise RuntimeError("input_ids is empty")
        if len(self.tokens) + len(tokens) > self.max_length:
            raise RuntimeError("exceeds max length")
        if any(token >= VOCABULARY for token in tokens):
            raise RuntimeError("indices element out of data bounds")
        self.tokens += tokens
        self.done = False

    def ranking(self) -> list[int]:
        total = sum((place + 1) * token for place, token in enumerate(self.tokens))
        return [(total * 7 + rank) % (VOCABULARY - 3) for rank in range(8)]

    def next(self) -> int:
        return self.force_next(self.ranking()[0])

    def force_next(self, token: int) -> int:
        if len(self.tokens) >= self.max_length:
            raise RuntimeError("already at max_length")
        if token == END:
            self.done = True
        else:
            self.tokens.append(token)
        return token

    def ended(self) -> bool:
        return self.done or len(self.tokens) >= self.max_length

    def rewind(self, length: int) -> None:
        if length > len(self.tokens):
            raise RuntimeError("Cannot rewind")
        del self.tokens[length:]


class Behaved:
    """An engine without a model that behaves as ONNX Runtime GenAI 0.18 does."""

    eos_token_ids: Sequence[int] = (END,)
    context_length = CONTEXT
    vocabulary_size = VOCABULARY

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.normalizer = normalizers.Sequence([])  # the real one has none either

    def render(self, turns: str, tools: str | None = None) -> str:
        json.loads(tools or "[]")
        said = [f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in json.loads(turns)]
        return "".join(said) + "<|im_start|>assistant\n"

    def encode(self, text: str | bytes) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        elif any("\ud800" <= character <= "\udfff" for character in text):
            raise TypeError("incompatible function arguments")
        return list(self._tokenizer.encode(text.partition("\x00")[0]).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens)))

    def streamed(self, tokens: Sequence[int]) -> str:
        return self.decode(tokens)

    def session(self, max_length: int, **search: Any) -> Generator:
        if not 0 < max_length <= self.context_length:
            raise RuntimeError("max_length")
        if search.get("top_p", 1.0) > 1:
            raise RuntimeError("top_p must be between 0.0 and 1.0")
        return Generator(max_length, search.get("min_length", 0))

    def batched(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return [[0] * new_tokens for _ in prompts]


def subject(engine: Behaved, folder: Path) -> Subject:
    prepared = Subject(engine, folder, folder / "scratch")
    failure(lambda: (prepared.usual, prepared.usual_tokens))
    return prepared


CASES = {case.name: case for case in [*text_cases(), *engine_cases()]}


def failures(engine: Behaved, folder: Path, cases: Iterable[str] = CASES) -> set[str]:
    """Run cases that need no model, and give the names of those that failed."""
    on = subject(engine, folder)
    outcomes = [run_case(CASES[name], on) for name in cases]
    return {outcome.case for outcome in outcomes if not outcome.passed}


@pytest.fixture(scope="module")
def folder(demo_checkpoint: Path) -> Path:
    return demo_checkpoint


def test_engine_that_behaves_passes_every_case(folder: Path) -> None:
    assert failures(Behaved(folder), folder) == set()


# ---------------------------------------------------------------- engines that do not behave


class TakesEmptyPrompts(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        class Lax(Generator):
            def append(self, tokens: Sequence[int]) -> None:
                if tokens:
                    super().append(tokens)

        super().session(max_length, **search)
        return Lax(max_length, 0)


class WritesPastItsLimit(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        made = super().session(max_length, **search)
        made.max_length += 5
        return made


class TakesAnyMaxLength(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        return Generator(max_length, 0)


class NeverDone(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        class Endless(Generator):
            def ended(self) -> bool:
                return False

        super().session(max_length, **search)
        return Endless(max_length, 0)


class ReadsNotTheLastToken(Behaved):
    """Its vocabulary is smaller than its configuration says."""

    vocabulary_size = VOCABULARY + 1


class SamplesAtZero(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        made = super().session(max_length, **search)
        if search.get("do_sample"):
            made.tokens = [5]
        return made


class TakesAnyTopP(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        return super().session(max_length, **{**search, "top_p": 1.0})


class SharesItsCache(Behaved):
    """Two sequences at once mix up; one sequence after the other is right until then."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._open = 0

    def session(self, max_length: int, **search: Any) -> Generator:
        outer = self

        class Shared(Generator):
            def __init__(self) -> None:
                super().__init__(max_length, 0)
                outer._open += 1

            def ranking(self) -> list[int]:
                import time

                time.sleep(0.001)  # lets the other threads in
                return [(token + outer._open) % 1000 for token in super().ranking()]

            def __del__(self) -> None:
                outer._open -= 1

        super().session(max_length, **search)
        return Shared()


class LosesARequest(Behaved):
    def batched(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return [*super().batched(prompts, new_tokens)[1:], []]


class ForgetsTheFirstTurn(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        class Forgetful(Generator):
            def append(self, tokens: Sequence[int]) -> None:
                if self.done:
                    self.tokens.clear()
                super().append(tokens)

        super().session(max_length, **search)
        return Forgetful(max_length, 0)


class RewindsNothing(Behaved):
    def session(self, max_length: int, **search: Any) -> Generator:
        class Stuck(Generator):
            def rewind(self, length: int) -> None:
                del self.tokens[length + 1 :]

        super().session(max_length, **search)
        return Stuck(max_length, 0)


class BreaksOnceLeftAlone(Behaved):
    """A sequence that is dropped in the middle poisons all that follow."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.poison = 0

    def session(self, max_length: int, **search: Any) -> Generator:
        outer = self

        class Fragile(Generator):
            def ranking(self) -> list[int]:
                return [(token + outer.poison) % 1000 for token in super().ranking()]

            def __del__(self) -> None:
                outer.poison += len(self.tokens) + 3 < self.max_length

        super().session(max_length, **search)
        return Fragile(max_length, 0)


class CutsTheLastCharacter(Behaved):
    def decode(self, tokens: Sequence[int]) -> str:
        return super().decode(tokens)[:-1]


class StreamsBrokenCharacters(Behaved):
    def streamed(self, tokens: Sequence[int]) -> str:
        return "".join(self.decode([token]) for token in tokens)


class TakesSurrogates(Behaved):
    def encode(self, text: str | bytes) -> list[int]:
        return super().encode(text.encode("utf-8", "replace") if isinstance(text, str) else text)


class TakesAnyTurns(Behaved):
    def render(self, turns: str, tools: str | None = None) -> str:
        return "<|im_start|>assistant\n"


class HasAnotherTokenizer(Behaved):
    def encode(self, text: str | bytes) -> list[int]:
        return [token + 100 for token in super().encode(text)]


class HasTheWrongEnd(Behaved):
    eos_token_ids = (5,)


class HasAnAdapterWithAFault(Behaved):
    def batched(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        raise AttributeError("'Generator' object has no attribute 'get_sequnce'")


class ReadsComposedAccentsOtherwise(Behaved):
    def encode(self, text: str | bytes) -> list[int]:
        return super().encode(text.replace("è", "e") if isinstance(text, str) else text)


class RefusesEverything(Behaved):
    def render(self, turns: str, tools: str | None = None) -> str:
        raise RuntimeError("no")

    def encode(self, text: str | bytes) -> list[int]:
        raise RuntimeError("no")

    def session(self, max_length: int, **search: Any) -> Generator:
        raise RuntimeError("no")

    def batched(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("engine", "caught_by"),
    [
        (TakesEmptyPrompts, {"empty text"}),
        (WritesPastItsLimit, {"prompt as long as max_length", "generating past max_length"}),
        (TakesAnyMaxLength, {"max_length of 0", "max_length beyond the context"}),
        (NeverDone, {"generating past max_length", "generating past the end of an answer"}),
        (ReadsNotTheLastToken, {"token ids at and beyond the end of the vocabulary"}),
        (SamplesAtZero, {"temperature of 0"}),
        (TakesAnyTopP, {"top_p of 2"}),
        (SharesItsCache, {"four threads at once"}),
        (LosesARequest, {"four requests in one batch"}),
        (HasAnAdapterWithAFault, {"four requests in one batch"}),
        (ReadsComposedAccentsOtherwise, {"decomposed accents"}),
        (ForgetsTheFirstTurn, {"second turn after the end of an answer"}),
        (RewindsNothing, {"rewound to the start"}),
        (BreaksOnceLeftAlone, {"dropped in mid-generation"}),
        (CutsTheLastCharacter, {"zero-width space", "right-to-left text"}),
        (StreamsBrokenCharacters, {"Chinese, Japanese and Korean"}),
        (TakesSurrogates, {"half of a surrogate pair"}),
        (TakesAnyTurns, {"conversation that is not JSON", "tools that are not JSON"}),
        (HasAnotherTokenizer, {"tokens of texts", "tokens that end an answer", "byte order mark"}),
        (HasTheWrongEnd, {"tokens that end an answer"}),
    ],
)
def test_engine_that_misbehaves_is_caught(
    folder: Path, engine: type[Behaved], caught_by: set[str]
) -> None:
    assert failures(engine(folder), folder, caught_by) == caught_by


def test_engine_that_refuses_everything_passes_nothing(folder: Path) -> None:
    assert failures(RefusesEverything(folder), folder) == set(CASES)


def test_border_that_lets_everything_in_is_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rule in ("accepted_text", "require_turns", "require_token_ids", "require_temperature"):
        monkeypatch.setattr(border, rule, lambda first, *_: first)
    guarded = {
        "U+0000 in a text",
        "half of a surrogate pair",
        "bytes that are not UTF-8",
        "decomposed accents",
        "turn without a text",
        "conversation without a turn",
        "negative token id",
        "negative temperature",
        "temperature that is not a number",
    }
    assert failures(Behaved(folder), folder, guarded) == guarded


def test_control_token_that_no_tokenizer_can_spell_out_is_caught(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = Behaved(folder).encode
    monkeypatch.setattr(PlainTokenizer, "encode", lambda self, text: parsed(text))
    case = "control token in a user's text"
    assert failures(Behaved(folder), folder, [case]) == {case}


# ---------------------------------------------------------------- running a case


def test_case_after_which_the_engine_answers_otherwise_has_failed(folder: Path) -> None:
    engine = Behaved(folder)

    def harmful(on: Subject) -> Seen:
        engine.session = lambda max_length, **search: Generator(0, 0)  # type: ignore[method-assign]
        return Seen(True, "fine")

    outcome = run_case(Case("harm", "nothing", harmful), subject(engine, folder))
    assert not outcome.passed
    assert outcome.got.startswith("fine; afterwards the engine fails")


def test_case_that_ends_in_an_exception_has_failed_with_its_words(folder: Path) -> None:
    def stumble(on: Subject) -> Seen:
        raise ValueError("no such thing")

    outcome = run_case(Case("stumble", "nothing", stumble), subject(Behaved(folder), folder))
    assert not outcome.passed
    assert "ValueError: no such thing" in outcome.got


def test_lack_of_memory_is_not_a_failed_case(folder: Path) -> None:
    def starve(on: Subject) -> Seen:
        raise RuntimeError("std::bad_alloc")

    with pytest.raises(DoesNotFit):
        run_case(Case("starve", "nothing", starve), subject(Behaved(folder), folder))


def test_worker_that_was_killed_is_not_a_failed_case(folder: Path) -> None:
    def lose(on: Subject) -> Seen:
        raise ChildKilled("killed by SIGKILL")

    with pytest.raises(ChildKilled):
        run_case(Case("lose", "nothing", lose), subject(Behaved(folder), folder))


def test_failures_are_counted_and_named() -> None:
    fine = Outcome(case="a", expected="x", got="x", passed=True, seconds=0.1)
    wrong = Outcome(case="b", expected="refused", got="accepted", passed=False, seconds=0.1)
    metrics = edge_metrics([fine, wrong])
    assert (metrics["edge.failures"].value, metrics["edge.failures"].n) == (1, 2)
    assert metrics["edge.cases"].value == 2
    assert edge_notes([fine, wrong]) == ["edge case 'b': expected refused; got accepted"]


# ---------------------------------------------------------------- the border and plain text


@pytest.mark.parametrize("text", ["ab\x00cd", "a\ud800b", b"\xff\xfe", None])
def test_border_refuses_what_is_no_text(text: str | bytes | None) -> None:
    with pytest.raises(InputError):
        border.accepted_text(text)


def test_border_composes_accents_and_leaves_the_rest() -> None:
    assert (
        border.accepted_text("e\u0301 <|im_end|> \u200b\ufeff") == "\u00e9 <|im_end|> \u200b\ufeff"
    )


def test_token_that_is_not_special_but_ends_a_turn_is_spelled_out_too(
    folder: Path, tmp_path: Path
) -> None:
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    for token in content["added_tokens"]:
        token["special"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    (tmp_path / "chat_template.jinja").write_text("{{ '<|im_start|>' }}", encoding="utf-8")
    plain = PlainTokenizer(tmp_path, [END])
    assert plain.control_tokens == {1022: "<|im_start|>", END: "<|im_end|>"}
    tokens = plain.encode("say <|im_end|> or <|im_start|>")
    assert not {1022, END} & set(tokens)
    assert plain.decode(tokens) == "say <|im_end|> or <|im_start|>"


# ---------------------------------------------------------------- processes that die


def death(begun: str, journal: Journal, problem: Exception) -> Any:
    journal.begin(Begun(case=begun, expected="survival"))
    raise problem


EVIDENCE = (
    Evidence(suite="edge", subject="a" * 64, metrics={}),
    "b" * 64,
    Cost(seconds=1, cpu_s=1, peak_rss_bytes=1),
)


@pytest.mark.parametrize(
    "problem",
    [
        ChildKilled("it was killed by SIGSEGV"),
        ChildTimedOut("it was stopped after 60 s"),
        ToolFailed("it ended with code 1 and no result"),
    ],
)
def test_case_that_ends_its_process_has_failed_and_the_rest_is_run(
    tmp_path: Path, problem: Exception
) -> None:
    journal, attempts = Journal(tmp_path / "journal"), []

    def run_the_rest(deaths: int) -> Any:
        attempts.append(deaths)
        return EVIDENCE if deaths else death("crash", journal, problem)

    assert outliving_deaths(run_the_rest, journal) == EVIDENCE
    assert attempts == [0, 1]
    assert str(problem).removesuffix(".") in journal.outcomes()["crash"].got
    assert not journal.outcomes()["crash"].passed


@pytest.mark.parametrize(
    "problem",
    [
        ChildKilled("it was killed by SIGKILL"),
        ChildKilled("the process that loads a folder was killed by SIGKILL"),
        DoesNotFit("no memory"),
        VariantUnusable("it does not load"),
    ],
)
def test_death_that_is_not_the_cases_fault_goes_on(tmp_path: Path, problem: Exception) -> None:
    journal = Journal(tmp_path / "journal")
    with pytest.raises(type(problem)):
        outliving_deaths(lambda deaths: death("case", journal, problem), journal)
    assert journal.outcomes() == {}


def test_process_that_dies_before_any_case_is_an_error(tmp_path: Path) -> None:
    def fail(deaths: int) -> Any:
        raise ToolFailed("it ended with code 3 and no result")

    with pytest.raises(ToolFailed):
        outliving_deaths(fail, Journal(tmp_path / "journal"))


def test_kill_signal_is_not_a_crash() -> None:
    assert not is_the_cases_fault(ChildKilled("x was killed by SIGKILL"))
    assert is_the_cases_fault(ChildKilled("x was killed by SIGABRT"))
