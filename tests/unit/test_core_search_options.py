"""Every greedy generator of ours has a seed, but the one whose making is timed."""

from __future__ import annotations

import ast
from pathlib import Path

TASKS = Path(__file__).resolve().parents[2] / "tasks"
TIMED = "examine/speed/worker.py"


def test_every_greedy_generator_has_the_options_of_all_but_the_timed_one() -> None:
    found = {
        file.relative_to(TASKS).as_posix(): "**GREEDY" in ast.unparse(node)
        for file in TASKS.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".set_search_options")
    }
    assert found.pop(TIMED) is False
    assert len(found) >= 5
    assert all(found.values()), found
