"""The edge cases on a stand-in service: none fails as it is, each does with its planted fault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from tasks.core.errors import DoesNotFit
from tasks.foundry.edge import service as service_module
from tasks.foundry.edge.case import Case, Found, Result, Row, held
from tasks.foundry.edge.case import broken as broken_found
from tasks.foundry.edge.catalogue import cases
from tasks.foundry.edge.refusals import REFUSED
from tasks.foundry.edge.service import Service
from tasks.foundry.edge.suite_child import put
from tests.foundry_fake_service import fake_service

FITTING = ["prompt of context-8 tokens, answer of 8", "prompt of context-1 tokens, answer of 1"]
ON_ONE = ["two requests on one connection", "a request after a wrong one on the same connection"]


def all_put(service: Service) -> dict[str, Row]:
    return {case.name: put(case, service) for case in cases()}


def broken(rows: Iterable[Row]) -> set[str]:
    return {row.case for row in rows if not row.passed}


def refused_by_promise() -> set[str]:
    return {case.name for case in cases() if case.promise.startswith(REFUSED) and not case.gap}


def named(name: str) -> Case:
    return next(case for case in cases() if case.name == name)


def test_names_are_unique() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))


def test_service_as_it_was_measured_breaks_no_promise_and_has_exactly_its_known_gaps() -> None:
    with fake_service() as service:
        rows = all_put(service)
    assert broken(rows.values()) == set()
    gaps = {name for name, row in rows.items() if row.result is Result.GAP}
    assert gaps == {case.name for case in cases() if case.gap}
    assert {row.result for row in rows.values()} == {Result.HELD, Result.GAP}


def test_service_that_answers_what_it_must_refuse_is_caught_by_every_such_case() -> None:
    with fake_service("answers everything") as service:
        failed = broken(all_put(service).values())
    assert refused_by_promise() - {"bytes that are not HTTP"} <= failed


def test_service_that_fails_where_it_must_refuse_is_caught_by_every_such_case() -> None:
    with fake_service("fails instead of refusing") as service:
        failed = broken(all_put(service).values())
    without_own = {"bytes that are not HTTP", "GET where POST belongs"}
    assert refused_by_promise() - without_own <= failed
    assert "bytes that are not UTF-8" in failed


@pytest.mark.parametrize(
    ("fault", "caught"),
    [
        ("RoPE cache is too short", FITTING),
        ("context is one token short", [*FITTING, "prompt and max_tokens of context+0"]),
        ("takes no heat", ["temperature 2"]),
        ("knows no parts", ["content as a list of parts"]),
        ("strips", ["white space only"]),
        ("renders templates", ["template syntax"]),
        ("counts bytes", ["emoji, right to left, CJK, blind", "composed accents"]),
        ("one token is five", ["max_tokens 1"]),
        ("ignores stop", ["stop sequence"]),
        ("loses a piece", ["stream"]),
        ("streams without an end", ["stream"]),
        ("streams without a reason", ["stream"]),
        ("loses chunks", ["body in chunks"]),
        ("closes connections", ON_ONE),
        ("mixes answers up", ["four requests at once"]),
        ("cuts long prompts", ["one word of 200 letters"]),
        ("is worn by half requests", ["half a request, then gone"]),
        ("left streams wear it", ["four streams left after the first piece"]),
    ],
)
def test_planted_fault_is_caught_by_its_case(fault: str, caught: list[str]) -> None:
    with fake_service(fault) as service:
        assert broken(put(named(name), service) for name in caught) == set(caught)


def test_answer_that_changes_from_time_to_time_is_caught() -> None:
    with fake_service("is not greedy") as service:
        rows = [put(named("temperature 0, twice"), service) for _ in range(3)]
    assert broken(rows)


def test_tokens_counted_unlike_hugging_face_break_what_the_variant_promises_only() -> None:
    with fake_service() as service:
        other = replace(service, hugging_face=dict.fromkeys(service.hugging_face, 5))
        assert put(named("composed accents"), other).result is Result.BROKEN
        assert put(named("control token in the user's text"), other).result is Result.BROKEN
        assert put(named("decomposed accents"), other).result is Result.GAP


def test_case_that_leaves_the_service_answering_otherwise_did_not_survive() -> None:
    def wear(service: Service) -> Found:
        return held(str(service.stream(service.body())))

    case = Case("wears", "nothing", wear)
    with fake_service("left streams wear it") as service:
        row = put(case, service)
    assert (row.passed, row.survived) == (False, False)
    assert "plain question" in row.got


def test_service_that_is_gone_is_no_survival() -> None:
    with fake_service() as service:
        pass
    row = put(named("no messages key"), service)
    assert (row.passed, row.survived) == (False, False)
    assert "refused" in row.got.lower()


def test_service_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(service_module, "PATIENCE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, fake_service() as service:
        deaf = replace(service, port=silent.getsockname()[1])
        row = put(named("malformed JSON"), deaf)
    assert not row.survived
    assert "timed out" in row.got


def test_lack_of_memory_is_no_finding() -> None:
    def starve(_: Service) -> Found:
        return broken_found("500: std::bad_alloc")

    with fake_service() as service, pytest.raises(DoesNotFit):
        put(Case("starves", "nothing", starve), service)


def test_long_prompt_is_not_read_by_a_model_that_would_take_minutes() -> None:
    with fake_service() as service:
        large = replace(service, parameters=10**9)
        rows = [put(named(name), large) for name in FITTING]
        over = put(named("prompt of context+1 tokens, answer of 1"), large)
    assert {row.result for row in rows} == {Result.NOT_ASKED}
    assert over.result is Result.HELD


def test_answer_of_a_whole_context_is_not_begun_by_a_model_that_writes_no_text() -> None:
    case = named("prompt and max_tokens of context+0")
    with fake_service() as service:
        assert put(case, service).result is Result.HELD
        assert case.act(replace(service, usual="")).result is Result.NOT_ASKED


def test_prompts_have_exactly_the_tokens_they_say() -> None:
    from tasks.foundry.edge.boundaries import text_of

    with fake_service() as service:
        texts = [text_of(service, tokens) for tokens in (50, 51, 399, 400)]
    assert [service.tokens(text or "") for text in texts] == [50, 51, 399, 400]
