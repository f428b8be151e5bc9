"""The error tree is what its docstring draws, and an error survives the way between processes."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from tasks.core import errors
from tasks.core.errors import (
    DoesNotFit,
    IngotError,
    InputError,
    ToolFailed,
    TransientFault,
    error_from_fields,
    named,
)

BRANCH = re.compile(r"^    (?P<indent>(?:│   |    )*)(?:├── |└── )(?P<name>\w+)")
EXIT_CODE = re.compile(r"(?P<name>\w+) .*\bexit (?:code )?(?P<code>\d)")
PARTS = {"expected": "8 GiB", "got": "4 GiB", "next_step": "close the browser"}


def drawn_tree() -> dict[str, str]:
    parents: dict[str, str] = {}
    path = ["IngotError"]
    for line in (errors.__doc__ or "").splitlines():
        if found := BRANCH.match(line):
            depth = 1 + len(found["indent"]) // 4
            path = [*path[:depth], found["name"]]
            parents[found["name"]] = path[-2]
    return parents


def below(kind: type[IngotError]) -> list[type[IngotError]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in below(child))]


KINDS = [kind for kind in below(IngotError) if kind.__module__ == errors.__name__]


def test_tree_in_the_docstring_is_the_real_tree() -> None:
    assert drawn_tree() == {
        kind.__name__: kind.__base__.__name__ for kind in KINDS if kind is not IngotError
    }


def test_exit_codes_in_the_docstring_are_the_real_ones() -> None:
    drawn = {found["name"]: int(found["code"]) for found in EXIT_CODE.finditer(errors.__doc__)}
    second_level = {kind.__name__: kind.exit_code for kind in IngotError.__subclasses__()}
    assert drawn == second_level


@pytest.mark.parametrize("kind", KINDS)
def test_exit_code_is_that_of_the_retry_decision(kind: type[IngotError]) -> None:
    second_level = [base for base in kind.__mro__ if IngotError in base.__bases__]
    assert kind.exit_code == (second_level[0] if second_level else kind).exit_code


def test_second_level_is_disjoint() -> None:
    second_level = tuple(IngotError.__subclasses__())
    for kind in KINDS[1:]:
        assert sum(issubclass(kind, branch) for branch in second_level) == 1
    assert not issubclass(DoesNotFit, TransientFault | InputError)


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
@pytest.mark.parametrize("kind", KINDS)
def test_error_keeps_its_type_and_parts_across_processes(kind: type, copied: object) -> None:
    twin = copied(kind("does not fit", **PARTS))
    assert type(twin) is kind
    assert twin.to_fields() == {"message": "does not fit", **PARTS}
    assert str(twin) == str(kind("does not fit", **PARTS))


@pytest.mark.parametrize("kind", KINDS)
def test_error_written_as_fields_comes_back(kind: type[IngotError]) -> None:
    before = kind("does not fit", **PARTS)
    after = error_from_fields(kind.__name__, before.to_fields())
    assert type(after) is kind
    assert after.to_fields() == before.to_fields()


def test_unknown_kind_is_a_tool_failure() -> None:
    error = error_from_fields("KeyError", {"message": "missing"})
    assert type(error) is ToolFailed
    assert error.message == "missing"


def test_message_says_what_was_expected_what_came_and_what_to_do() -> None:
    assert str(DoesNotFit("The build does not fit.", **PARTS)) == (
        "The build does not fit. Expected: 8 GiB. Got: 4 GiB. Next: close the browser."
    )


@pytest.mark.parametrize("message", ["no weights", "no weights."])
def test_message_without_parts_stands_alone_as_a_sentence(message: str) -> None:
    assert str(InputError(message)) == "no weights."


def test_race_of_the_interpreter_may_heal() -> None:
    problem = SystemError("AST constructor recursion depth mismatch (before=102, after=37)")
    assert type(named(problem)) is TransientFault
    assert type(named(SystemError("bad argument"))) is ToolFailed
