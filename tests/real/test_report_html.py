"""The whole report, drawn for real: every plot, the same bytes, a size that a mail can carry."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from tasks.core.settings import Settings
from tasks.report.html.drawing import Material
from tasks.report.html.plots import PLOTS, Plot, draw, draw_all
from tasks.report.html.svg import WIDTH
from tasks.report.load import load_run
from tasks.report.write import write_page, write_report
from tests.golden.sample_frames import sample_frames, write_sample_run
from tests.golden.sample_release import INT8, sample_release

pytestmark = pytest.mark.real

MOST_BYTES = 2_000_000
PHONE = 360 - 2 * 22  # what a figure has on a phone, CSS pixels

Frames = dict[str, pd.DataFrame]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


KINDS = {kind.name: kind for kind in PLOTS}


def drawn(folder: Path, name: str, **changes: pd.DataFrame | None) -> Plot:
    """Draw one plot of the sample run with other frames."""
    run = load_run(write_sample_run(folder, **changes))
    return draw(KINDS[name], Material(run))


@pytest.fixture(scope="module")
def plots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plot]:
    run = load_run(write_sample_run(tmp_path_factory.mktemp("plots") / "run"))
    return {plot.name: plot for plot in draw_all(Material(run))}


def test_report_is_published_with_its_page(settings: Settings) -> None:
    folder = write_report(sample_release(), [], settings=settings)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "INT8 ships</h1>" in page


def test_two_processes_write_the_same_bytes_and_not_too_many(
    settings: Settings, tmp_path: Path
) -> None:
    folder = write_sample_run(tmp_path / "run")
    pages = []
    for _ in range(2):
        summary = write_page(folder, "run", settings)
        pages.append((folder / "report.html").read_bytes())
    assert pages[0] == pages[1]
    assert summary.without == {}
    assert summary.size_bytes == len(pages[0]) < MOST_BYTES


def test_every_plot_is_drawn_from_the_sample(plots: dict[str, Plot]) -> None:
    assert list(plots) == [kind.name for kind in PLOTS]
    assert {name: plot.why_not for name, plot in plots.items() if not plot.svg} == {}


def test_plots_are_whole_and_named_for_those_who_do_not_see_them(plots: dict[str, Plot]) -> None:
    for plot in plots.values():
        root = ElementTree.fromstring(plot.svg.replace("xlink:href", "href"))
        assert root.get("role") == "img"
        label = root.get("aria-label") or ""
        assert label.startswith(plot.title)
        assert "INT8" in label


def test_plots_take_colours_and_font_from_the_page(plots: dict[str, Plot]) -> None:
    for plot in plots.values():
        assert "<text" in plot.svg
        assert "#01fe" not in plot.svg
        assert "var(--int8)" in plot.svg
        assert not re.search(r"#[0-9a-f]{6}\b|font-family|DejaVu|<style|<metadata", plot.svg)


def test_ids_of_all_plots_differ(plots: dict[str, Plot]) -> None:
    ids = [found for plot in plots.values() for found in re.findall(r' id="([^"]+)"', plot.svg)]
    assert ids
    assert len(ids) == len(set(ids))


def test_text_in_plots_can_be_read_on_a_phone(plots: dict[str, Plot]) -> None:
    for plot in plots.values():
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", plot.svg)]
        assert min(sizes) * PHONE / WIDTH >= 10


@pytest.mark.parametrize(
    ("frame", "name", "why"),
    [
        ("kld", "histogram", "this run has no rows `kld`"),
        ("positions", "positions", "this run has no rows `positions`"),
        ("memory", "memory", "this run has no rows `memory`"),
        ("samples", "gaps", "this run has no rows `samples`"),
        ("latency", "latency", "this run has no rows `latency`"),
    ],
)
def test_plot_without_rows_says_why(tmp_path: Path, frame: str, name: str, why: str) -> None:
    plot = drawn(tmp_path / "run", name, **{frame: None})
    assert plot.svg == ""
    assert plot.why_not.startswith(why)


def without_column(name: str, column: str) -> Frames:
    return {name: sample_frames()[name].drop(columns=column)}


def no_number(name: str, column: str) -> Frames:
    return {name: sample_frames()[name].assign(**{column: np.nan})}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda: without_column("samples", "itl"), "gaps"),
        (lambda: without_column("memory", "anon_b"), "memory"),
        (lambda: no_number("positions", "kld_mean"), "positions"),
        (lambda: no_number("kld", "kld"), "histogram"),
        (lambda: {"memory": sample_frames()["memory"].assign(anon_b="many")}, "memory"),
    ],
)
def test_odd_rows_cost_a_plot_and_not_the_page(
    tmp_path: Path, change: Callable[[], Frames], name: str
) -> None:
    assert drawn(tmp_path / "run", name, **change()).why_not


def test_divergence_of_nothing_can_still_be_drawn(tmp_path: Path) -> None:
    zero = sample_frames()["kld"].assign(kld=0.0)
    assert drawn(tmp_path / "run", "histogram", kld=zero).svg


def test_run_without_a_live_heap_shows_anonymous_memory_alone(tmp_path: Path) -> None:
    memory = sample_frames()["memory"].assign(heap_b=np.nan)
    plot = drawn(tmp_path / "run", "memory", memory=memory)
    assert "anonymous memory" in plot.svg
    assert "live heap" not in plot.svg


@pytest.mark.parametrize(("column", "value"), [("lane", "control"), ("phase", "warm")])
def test_gaps_are_those_of_runs_that_count(tmp_path: Path, column: str, value: str) -> None:
    samples = sample_frames()["samples"]
    slow = samples.assign(**{column: value}, itl=[[99.0]] * len(samples))
    plain = drawn(tmp_path / "a", "gaps").svg
    assert drawn(tmp_path / "b", "gaps", samples=pd.concat([samples, slow])).svg == plain


def test_tokens_of_plain_text_are_no_answers(tmp_path: Path) -> None:
    kld = sample_frames()["kld"].assign(corpus="questions")
    text = kld.assign(corpus="text", kld=9.0)
    plain = drawn(tmp_path / "a", "histogram").svg
    assert drawn(tmp_path / "b", "histogram", kld=pd.concat([kld, text])).svg == plain


def test_leak_climbs_over_the_budget_and_a_sound_run_stays_below(plots: dict[str, Plot]) -> None:
    label = ElementTree.fromstring(plots["memory"].svg.replace("xlink:href", "href")).get(
        "aria-label"
    )
    found = dict(re.findall(r"(INT\d) anonymous memory ([+-][\d.]+) MiB", label or ""))
    budget = re.search(r"budget ([\d.]+) MiB", label or "")
    assert budget is not None
    assert float(found["INT4"]) < float(budget[1]) < float(found["INT8"])
    assert INT8 not in (label or "")
