"""Every command of compose.yaml is one that exists, with every option that it is given."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.stack_compose import read_compose

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).resolve().parents[2]
MODULES = {"prefect": ["prefect"], "ingot": ["deployments.command"]}
COMMANDS: dict[str, list[str]] = {
    name: service["command"]
    for name, service in read_compose()["services"].items()
    if "command" in service
}


@cache
def help_of(words: tuple[str, ...]) -> tuple[int, str]:
    answer = subprocess.run(
        [sys.executable, "-m", *words, "--help"],
        cwd=REPOSITORY,
        env={**os.environ, "COLUMNS": "300", "TERM": "dumb", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def faults(command: list[str]) -> list[str]:
    """Say what of a command is not there."""
    first, *rest = command
    if first == "python":
        assert rest.pop(0) == "-m"
        words = [rest.pop(0)]
    else:
        words = list(MODULES[first])
    rest = [word for word in rest if word != "--no-prompt"]
    while rest and not rest[0].startswith(("-", "/")):
        words.append(rest.pop(0))
    code, text = help_of(tuple(words))
    if code != 0:
        return [f"no command {' '.join(words)}"]
    options = {word.partition("=")[0] for word in rest if word.startswith("-")}
    return [f"no option {option}" for option in sorted(options) if option not in text]


@pytest.mark.parametrize("service", COMMANDS)
def test_command_exists(service: str) -> None:
    assert faults(COMMANDS[service]) == []


@pytest.mark.parametrize(
    ("service", "right", "wrong", "found"),
    [
        ("watcher", "watch", "wach", "no command"),
        ("prepare", "deployments.stack.prepare", "deployments.stack.perpare", "no command"),
        ("worker", "--type=process", "--tpye=process", "no option --tpye"),
        ("server", "--port", "--prot", "no option --prot"),
    ],
)
def test_planted_typo_is_found(service: str, right: str, wrong: str, found: str) -> None:
    command: list[Any] = [wrong if word == right else word for word in COMMANDS[service]]
    assert command != COMMANDS[service]
    assert found in " ".join(faults(command))


@pytest.mark.parametrize("service", ["server", "worker"])
def test_health_check_is_a_program(service: str) -> None:
    kind, python, option, program = read_compose()["services"][service]["healthcheck"]["test"]
    assert (kind, python, option) == ("CMD", "python", "-c")
    compile(program, service, "exec")
