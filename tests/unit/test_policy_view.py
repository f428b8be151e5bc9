"""`ingot policy` names every value in force with the file and the line that it comes from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.command import app
from flows.policy_view import policy_document, print_policy
from tasks.core.errors import PolicyRefused
from tasks.judge.policy import DEFAULT_POLICY, policy_digest
from tasks.judge.policy_origins import Origins, lines_of
from tests.judged import POLICY

YOURS = """\
# mine
[gates.kld_mean]
limit = { int4 = 0.05 }

[gates.ppl_ratio]
enabled = false

[gates.ram]
why = "small device"
metric = "memory.peak_rss_bytes"
operator = "<="
limit = 1_000
"""


def document_of(folder: Path, text: str = YOURS) -> dict[str, Any]:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return policy_document(file)


def shown(document: dict[str, Any], width: int = 100) -> str:
    stream = io.StringIO()
    print_policy(Console(file=stream, width=width, highlight=False), document)
    return stream.getvalue()


def gate(document: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in document["gates"] if one["gate"] == name)
    return found


def line_in_default(words: str, after: str) -> int:
    lines = DEFAULT_POLICY.read_text(encoding="utf-8").split("\n")
    first = lines.index(after)
    return next(n for n, line in enumerate(lines, start=1) if n > first and line.startswith(words))


# ---------------------------------------------------------------- lines

ODD = {
    "table": ("[gates.a]\nlimit = 1", ("gates", "a", "limit"), 2),
    "spaces in a header": ("[ gates . a ]  # x\n\n  limit=1", ("gates", "a", "limit"), 3),
    "quoted header": ('[gates."a"]\n"limit" = 1', ("gates", "a", "limit"), 2),
    "inline table": ("[gates.a]\nlimit = {int4 = 1, int8 = 2}", ("gates", "a", "limit", "int8"), 2),
    "limit as a table": ("[gates.a.limit]\n# x\nint4 = 1", ("gates", "a", "limit", "int4"), 3),
    "dotted key": ("[gates]\na.limit = 1\na.why = 'x'", ("gates", "a", "why"), 3),
    "dotted from the top": ("gates.a.limit.int4 = 1", ("gates", "a", "limit", "int4"), 1),
    "gate in one line": ("\n[gates]\na = { limit = 1 }", ("gates", "a", "limit"), 3),
    "list over lines": ('[selection]\norder = [\n "int4",\n]\n', ("selection", "order"), 2),
    "after a long string": ('[gates.a]\nwhy = """\n[gates.b]\nlimit = 3\n"""\nlimit = 1',
                            ("gates", "a", "limit"), 6),
    "string with a hash": ("[gates.a]\nwhy = '# [gates.b]'\nlimit = 1", ("gates", "a", "limit"), 3),
}  # fmt: skip


@pytest.mark.parametrize(("text", "path", "line"), ODD.values(), ids=ODD)
def test_line_of_a_value_is_found_however_it_is_written(
    text: str, path: tuple[str, ...], line: int
) -> None:
    assert lines_of(text)[path] == line


def test_key_inside_a_string_is_no_key() -> None:
    text = '[gates.a]\nwhy = """\n[gates.b]\nlimit = 3\n"""\n'
    assert list(lines_of(text)) == [("gates", "a", "why")]


def test_every_value_of_the_default_file_has_its_line() -> None:
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    lines = text.split("\n")
    found = lines_of(text)
    assert found
    for path, number in found.items():
        assert path[-1] in lines[number - 1], path


def test_users_line_counts_before_the_default_one_and_only_for_what_it_says() -> None:
    origins = Origins("[gates.a]\nlimit = 1", "\n\n[gates.a]\nlimit = { int4 = 2 }")
    mine, default = (origins.of("gates", "a", "limit", name) for name in ("int4", "int8"))
    assert (mine.yours, mine.line) == (True, 4)
    assert (default.yours, default.line) == (False, 2)


# ---------------------------------------------------------------- the document


def test_each_limit_says_where_it_comes_from(tmp_path: Path) -> None:
    limits = {one["precision"]: one for one in gate(document_of(tmp_path), "kld_mean")["limits"]}
    assert (limits["int4"]["value"], limits["int4"]["from"], limits["int4"]["line"]) == (
        0.05, "yours", 3,
    )  # fmt: skip
    expected = line_in_default("limit = ", "[gates.kld_mean]")
    assert (limits["int8"]["from"], limits["int8"]["line"]) == ("default", expected)


def test_limit_of_a_size_class_is_shown_with_its_own_line(tmp_path: Path) -> None:
    limits = gate(document_of(tmp_path, ""), "kld_mean")["limits"]
    classes = {one["below_parameters"]: one["line"] for one in limits if one["precision"] == "int4"}
    expected = [line_in_default(f"{key} = ", "[gates.kld_mean]") for key in (
        "limit", "limit_below_4b", "limit_below_1b")]  # fmt: skip
    assert classes == dict(zip([None, 4_000_000_000, 1_000_000_000], expected, strict=True))


def test_dropped_limits_of_smaller_models_are_not_shown_as_in_force(tmp_path: Path) -> None:
    limits = gate(document_of(tmp_path), "kld_mean")["limits"]
    assert [one["value"] for one in limits if one["precision"] == "int4"] == [0.05]


def test_what_is_switched_off_is_there_and_says_by_which_line(tmp_path: Path) -> None:
    off = gate(document_of(tmp_path), "ppl_ratio")
    assert off["enabled"] is False
    assert off["from"]["enabled"] == {"from": "yours", "line": 6}


def test_what_no_file_says_has_no_line(tmp_path: Path) -> None:
    severity = gate(document_of(tmp_path), "ram")["from"]["severity"]
    assert severity == {"from": "default", "line": None}


def test_document_is_json_and_holds_every_gate_and_the_digest_of_the_report(tmp_path: Path) -> None:
    document = json.loads(json.dumps(policy_document(None)))
    assert [one["gate"] for one in document["gates"]] == [one.name for one in POLICY.gates]
    assert document["digest"] == policy_digest(POLICY)
    assert document["yours"] is None


def test_typo_is_an_error_and_nothing_is_shown(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match="limt") as refused:
        document_of(tmp_path, "[gates.kld_mean]\nlimt = 1")
    assert refused.value.exit_code == 2


def test_policy_is_shown_for_people_and_for_programs(
    tmp_path: Path,
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[gates.kld_mean]\nlimit = 0.5\n")
    program = CliRunner().invoke(app, ["policy", "--policy", str(file), "--json"])
    people = CliRunner().invoke(app, ["policy", "--policy", str(file)])
    assert json.loads(program.stdout)["yours"] == str(file)
    assert "kld_mean" in people.stdout
    file.write_text("[gates.kld_mean]\nlimt = 0.5\n")
    assert CliRunner().invoke(app, ["policy", "--policy", str(file)]).exit_code == 2


# ---------------------------------------------------------------- on a terminal


@pytest.mark.parametrize("width", [80, 100])
def test_table_keeps_to_the_width_and_loses_no_word(tmp_path: Path, width: int) -> None:
    document = document_of(tmp_path)
    text = shown(document, width)
    table = text[: text.index("Switched off")]
    assert max(map(len, table.splitlines())) <= width
    for one in document["gates"]:
        assert one["gate"] in text
        assert one["metric"] in text or not one["enabled"]


def test_table_marks_what_is_yours(tmp_path: Path) -> None:
    text = shown(document_of(tmp_path))
    assert "<= 0.05  INT4            yours 3" in text
    table, off = text.split("Switched off ")
    assert off.startswith("ppl_ratio (yours 6)")
    assert "ppl_ratio" not in table
    assert "a gate of yours, line 10" in text
    assert "severity is yours" not in text


def test_limit_is_shown_with_all_its_digits(tmp_path: Path) -> None:
    text = shown(document_of(tmp_path, "[gates.flip_rate]\nlimit = { int4 = 0.12345 }"))
    assert "<= 0.12345 INT4" in text


def test_table_shows_severity_champion_and_sizes_in_words(tmp_path: Path) -> None:
    text = " ".join(shown(document_of(tmp_path, "")).split())
    assert "INT4 below 4 B" in text
    assert "<= champion x 1.25 INT4" in text
    assert "0.01 passes INT4" in text
    assert ">= champion - 0.02" in text
    assert "Of two of equal size ships: int4, int8, fp16 (default " in text
    assert ("if proven" in text) == ("ttft_to_champion" in text)
