"""Numbers on the page read well, keep their meaning, and say so when there are none."""

from __future__ import annotations

import math

import pytest

from tasks.core.records import Measurement
from tasks.report.html.labels import LABELS, SIDE_BY_SIDE, kind_of, label_for, place_of
from tasks.report.html.numbers import Kind, State, cell_of, limit_text


def written(value: float, ci95: tuple[float, float] | None, kind: Kind | None, unit: str) -> str:
    cell = cell_of(Measurement(value=value, ci95=ci95, unit=unit), kind)
    return cell.text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize(
    ("value", "ci95", "kind", "unit", "text"),
    [
        (0.99766, (0.99152, 0.99936), Kind.SHARE, "1", "99.77 % [99.15, 99.94]"),
        (1.0, (0.9955, 1.0), Kind.SHARE, "1", "100 % [99.55, 100]"),
        (0.16, (0.13, 0.19), Kind.SHARE, "1", "16.0 % [13.0, 19.0]"),
        (0.5, (0.1, 0.9), Kind.SHARE, "1", "50 % [10, 90]"),
        (0.44, None, Kind.SHARE, "1", "44 %"),
        (-0.02, (-0.041, 0.001), Kind.POINTS, "1", "−2.0 points [−4.1, +0.1]"),  # noqa: RUF001
        (0.0, (-0.005, 0.005), Kind.POINTS, "1", "0 points [−0.5, +0.5]"),  # noqa: RUF001
        (0.0073, (0.0065, 0.0076), None, "s", "7.3 ms [6.5, 7.6]"),
        (0.000198, None, None, "s", "198 µs"),
        (12.5, None, None, "s", "12.5 s"),
        (64_180_224, None, None, "B", "61.2 MiB"),
        (122.0, (0.0, 146.0), None, "B", "122 B [0, 146]"),
        (1_590_000, None, Kind.DISK, "B", "1.59 MB"),
        (1.03, (0.97, 1.06), Kind.FACTOR, "1", "×1.03 [0.97, 1.06]"),  # noqa: RUF001
        (5398.0, (4583.0, 7248.0), Kind.TOKEN_RATE, "1/s", "5,398 tokens/s [4,583, 7,248]"),
        (2.5, None, None, "J", "2.5 J"),
        (2.0, (1.0, math.inf), None, "1", "2 [1, no bound]"),
    ],
)
def test_number_is_written_in_its_unit_with_its_interval(
    value: float, ci95: tuple[float, float] | None, kind: Kind | None, unit: str, text: str
) -> None:
    assert written(value, ci95, kind, unit) == text


def test_what_has_no_value_says_which_kind_of_nothing_it_is_and_why() -> None:
    absent = cell_of(Measurement(value=None, n=0, method="the machine was busy"))
    assert (absent.value, absent.method) == ("not measured", "the machine was busy")
    foreign = cell_of(Measurement(value=None, n=0, method="no JSON asked for", applies=False))
    assert (foreign.value, foreign.method) == ("does not apply", "no JSON asked for")
    assert cell_of(None).value == "not reported"
    assert {absent.state, foreign.state} == {State.ABSENT, State.NOT_APPLICABLE}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_not_measured(value: float) -> None:
    assert not cell_of(Measurement(value=value)).is_measured


def test_n_and_method_come_with_every_number() -> None:
    cell = cell_of(Measurement(value=1.0, n=1234, method="counted"))
    assert (cell.n, cell.method) == ("1,234", "counted")


def test_limit_is_written_as_its_metric() -> None:
    assert limit_text(0.12, Kind.SHARE).replace("\N{NO-BREAK SPACE}", " ") == "12 %"
    assert limit_text(1e-6, Kind.NATS) == "1e-06"


def test_metric_without_a_label_has_its_dotted_name() -> None:
    assert label_for("tune.best_threads").words == "tune.best_threads"
    assert kind_of("tune.best_threads") is None
    assert kind_of("speed.rag_ttft_ratio") is Kind.FACTOR


def test_metrics_stand_by_suite_then_by_weight_then_by_name() -> None:
    names = ["zoo.a", "speed.x", "answers.zz", "speed.ttft_s", "answers.right"]
    assert sorted(names, key=place_of) == [
        "answers.right", "answers.zz", "speed.ttft_s", "speed.x", "zoo.a",
    ]  # fmt: skip


def test_table_of_variants_has_labelled_metrics_only() -> None:
    assert set(SIDE_BY_SIDE) <= set(LABELS)
