"""The page shows what was measured, and of the rest that it was not."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kept import Kept
from benchmarks.page import table_in_words, targets_in_words, write_page
from benchmarks.plots import draw
from benchmarks.records import Conditions, Plot, Table
from benchmarks.sections import SECTIONS
from benchmarks.targets import TARGETS

HELP = "`ingot --help`, seconds"


def conditions(section: str) -> Conditions:
    return Conditions(
        section=section,
        plan="seed 0",
        sources="aa",
        revision="1234abcd",
        machine="a machine of 2 cores",
        versions={"torch": "2.13"},
        rounds=5,
    )


def page_of(folder: Path) -> str:
    page, images = folder / "docs" / "benchmarks.md", folder / "docs" / "images"
    write_page(SECTIONS, folder / "results", page, images, lambda _plot, _file: None)
    return page.read_text(encoding="utf-8")


def test_empty_page_promises_nothing(tmp_path: Path) -> None:
    text = page_of(tmp_path)
    assert f"0 of {len(TARGETS)} kept." in text
    assert "| kept |" not in text
    assert text.count("| not measured |\n") == len(TARGETS)
    assert text.count("Not measured.") == len(SECTIONS)


def test_figure_stands_beside_its_target(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "results", conditions("start-up"))
    for number, seconds in enumerate((0.2, 0.25, 0.21)):
        kept.add("ingot --help", number, {"seconds": seconds, "cpu_s": 0.1, "load": 0.5})
        kept.add("ingot check", number, {"seconds": 10 * seconds + 2, "cpu_s": 1.0, "load": 0.5})
    text = page_of(tmp_path)
    assert f"| {HELP} | ≤ 0.300 | 0.210 [0.200, 0.250] | kept |" in text
    assert "| ≤ 3.00 | 4.10 [4.00, 4.50] | **missed** |" in text
    assert f"1 of {len(TARGETS)} kept." in text
    for fact in ("a machine of 2 cores", "torch 2.13", "1234abcd", "Rounds: 3 of 5", "0.50 ["):
        assert fact in text


def test_reason_stands_where_the_figure_would(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "results", conditions("decode"))
    kept.add("INT4", 0, {"decode_tokens_per_s": 30.0, "load": 0.1})
    kept.give_up("llama.cpp Q4_0", "there is no cmake")
    text = page_of(tmp_path)
    assert "not measured: llama.cpp Q4_0: there is no cmake | not measured |" in text
    assert "- llama.cpp Q4_0: there is no cmake" in text


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_section_of_which_every_lane_failed_has_a_page(tmp_path: Path, section: object) -> None:
    name = section.name  # type: ignore[attr-defined]
    Kept(tmp_path / "results", conditions(name)).give_up("0.5 B", "there is no room")
    assert "- 0.5 B: there is no room" in page_of(tmp_path)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_section_with_a_stray_lane_shows_tables_and_gives_no_figure(
    tmp_path: Path, section: object
) -> None:
    name = section.name  # type: ignore[attr-defined]
    kept = Kept(tmp_path / "results", conditions(name))
    kept.add("0.5 B INT4", 0, {"load": 0.1})
    words = targets_in_words(SECTIONS, {name: kept})
    assert f"0 of {len(TARGETS)} kept." in words
    assert page_of(tmp_path)


def test_bar_in_a_cell_breaks_no_table() -> None:
    assert "| a/b |" in table_in_words(Table("t", ["x"], [["a|b"]]))


def test_plot_has_the_same_bytes_twice(tmp_path: Path) -> None:
    plot = Plot("p", "Title", "seconds", bars={"": {"ours": 1.5, "llama.cpp": 3.0}})
    draw(plot, tmp_path / "a.svg")
    draw(plot, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"llama.cpp" in (tmp_path / "a.svg").read_bytes()
