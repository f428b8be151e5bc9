"""Two runs are compared by intervals against what is no change in practice, never by values."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from flows.command import app
from flows.comparison import (
    comparison,
    has_regressed,
    print_comparison,
    run_folder,
)
from tasks.core.errors import InputError
from tasks.core.records import (
    Conditions,
    ExaminationProfile,
    Measurement,
    Precision,
    Registration,
)
from tasks.core.settings import Settings
from tasks.foundry.ledger import record_champion
from tasks.report.compare import Change, Verdict, compare_runs
from tasks.report.load import Run
from tasks.report.metric_kinds import KINDS, kind_of
from tests.golden.sample_release import (
    INT4,
    INT8,
    between,
    exact,
    sample_environment,
    sample_release,
    variant,
)
from tests.judged import POLICY
from tests.sample_runs import run_of, write_run

REGRESSED, BETTER, SAME, CANT_TELL = Verdict
OTHER = "e" * 64
REFERENCE = "3" * 64


def change_of(before: Run, after: Run) -> Change:
    (change,) = compare_runs(before, after)[Precision.INT4].changes
    return change


def compared(folder: Path, name: str, first: Measurement, second: Measurement) -> Change:
    """Compare one metric of two variants of which no raw rows were kept, on like hours."""
    before, after = (between(1.0, low, 1.001) for low in (0.998, 0.999))
    return beside(folder, name, (first, second), (before, after))


def beside(
    folder: Path,
    name: str,
    values: tuple[Measurement, Measurement],
    same_bytes: tuple[Measurement, Measurement],
) -> Change:
    """Compare two variants, beside each of which a third one was measured."""
    runs = [
        run_of(
            folder,
            {},
            digest=digest,
            metrics={digest: {name: value}, INT8: {name: steady}},
        )
        for digest, value, steady in zip((INT4, OTHER), values, same_bytes, strict=True)
    ]
    return change_of(*runs)


# ---------------------------------------------------------------- the verdict

RATE, TTFT = "speed.decode_tokens_per_s", "speed.ttft_s"
P99, HEAP = "fidelity.kld_p99", "soak.heap_growth_bytes"
DELTA, SAME_OUTPUT = "answers.delta", "answers.same_output"

CHANGES = {
    "slower": (TTFT, between(1.0, 0.99, 1.01), between(1.2, 1.18, 1.22), REGRESSED),
    "faster": (TTFT, between(1.0, 0.99, 1.01), between(0.8, 0.79, 0.81), BETTER),
    "as fast": (TTFT, between(1.0, 0.99, 1.01), between(1.01, 1.0, 1.02), SAME),
    "noise": (TTFT, between(1.0, 0.8, 1.3), between(1.2, 0.9, 1.5), CANT_TELL),
    "tokens up": (RATE, between(100, 99, 101), between(120, 118, 122), BETTER),
    "tokens down": (RATE, between(100, 99, 101), between(80, 79, 81), REGRESSED),
    "proven but small": (TTFT, between(1.0, 0.999, 1.001), between(1.03, 1.029, 1.031), SAME),
    "one mismatch": ("foundry.http_mismatches", exact(0), exact(1), REGRESSED),
    "no mismatch": ("foundry.http_mismatches", exact(0), exact(0), SAME),
    "one less": ("edge.failures", exact(2), exact(1), BETTER),
    "larger": ("size.bytes", exact(1000), exact(1020), REGRESSED),
    "hardly larger": ("size.bytes", exact(1000), exact(1005), SAME),
    "more memory": ("memory.peak_rss_bytes", exact(1000), exact(1100), REGRESSED),
    "memory within noise": ("memory.peak_rss_bytes", exact(1000), exact(1055), CANT_TELL),
    "memory as before": ("memory.peak_rss_bytes", exact(1000), exact(1030), SAME),
    "fewer right": ("answers.recovery", between(1, 0.99, 1), between(0.9, 0.89, 0.91), REGRESSED),
    "more right": ("answers.recovery", between(0.9, 0.89, 0.91), between(1, 0.99, 1), BETTER),
    "half a point": (DELTA, between(0, -0.001, 0.001), between(-0.005, -0.006, -0.004), SAME),
    "other texts": (SAME_OUTPUT, between(0.9, 0.8, 1.0), between(0.89, 0.8, 0.95), CANT_TELL),
    "further off": (P99, between(0.1, 0.09, 0.11), between(0.2, 0.18, 0.22), REGRESSED),
    "both nothing": (P99, between(1e-10, 1e-16, 2e-10), between(9e-10, 1e-16, 2e-9), SAME),
    "leak": (HEAP, between(6, 5, 7), between(16415, 16400, 16430), REGRESSED),
    "no leak": (HEAP, between(6, 5, 7), between(12, 10, 14), SAME),
    "no bound": (HEAP, between(6, 5, 7), between(9, 5, float("inf")), CANT_TELL),
}  # fmt: skip


@pytest.mark.parametrize(("name", "first", "second", "verdict"), CHANGES.values(), ids=CHANGES)
def test_change_is_judged_by_its_interval_and_what_counts_in_practice(
    tmp_path: Path, name: str, first: Measurement, second: Measurement, verdict: Verdict
) -> None:
    change = compared(tmp_path, name, first, second)
    assert change.verdict is verdict
    assert change.interval is not None
    assert change.method


@pytest.mark.parametrize(("name", "first", "second", "verdict"), CHANGES.values(), ids=CHANGES)
def test_comparing_the_other_way_round_gives_the_opposite(
    tmp_path: Path, name: str, first: Measurement, second: Measurement, verdict: Verdict
) -> None:
    opposite = {REGRESSED: BETTER, BETTER: REGRESSED}
    assert compared(tmp_path, name, second, first).verdict is opposite.get(verdict, verdict)


def test_wider_interval_never_proves_more(tmp_path: Path) -> None:
    verdicts = [
        compared(
            tmp_path, "speed.ttft_s", between(1.0, 1 - w, 1 + w), between(1.2, 1.2 - w, 1.2 + w)
        ).verdict
        for w in (0.01, 0.05, 0.2, 0.5)
    ]
    assert verdicts[0] is REGRESSED
    assert verdicts[-1] is CANT_TELL
    assert verdicts == sorted(verdicts, key=[REGRESSED, CANT_TELL].index)


def test_ratio_is_said_as_a_ratio_and_a_share_in_points(tmp_path: Path) -> None:
    time = compared(tmp_path, "speed.ttft_s", between(2.0, 1.9, 2.1), between(3.0, 2.9, 3.1))
    assert (time.said, time.difference, time.margin) == ("ratio", pytest.approx(1.5), 0.05)
    low, high = time.interval or (0, 0)
    assert low < 1.5 < high
    share = compared(tmp_path, "answers.delta", between(0, -0.1, 0.1), between(0.2, 0.1, 0.3))
    assert (share.said, share.difference, share.margin) == ("points", 0.2, 0.01)


def test_two_intervals_are_taken_apart_by_square_and_add(tmp_path: Path) -> None:
    change = compared(
        tmp_path, "answers.delta", between(0.0, -0.03, 0.03), between(0.0, -0.04, 0.04)
    )
    assert change.interval == pytest.approx((-0.05, 0.05))


# ---------------------------------------------------------------- what is not compared


def cant_tell(change: Change) -> str:
    assert (change.verdict, change.difference, change.interval) == (CANT_TELL, None, None)
    return change.method


def test_metric_of_one_run_only_is_not_compared(tmp_path: Path) -> None:
    before, after = run_of(tmp_path, {"size.bytes": exact(1)}), run_of(tmp_path, {}, digest=OTHER)
    assert cant_tell(change_of(before, after)) == "only A reports it"
    assert cant_tell(change_of(after, before)) == "only B reports it"


def test_what_was_not_measured_is_not_compared_and_says_why(tmp_path: Path) -> None:
    killed = Measurement(value=None, method="killed")
    change = compared(tmp_path, "size.bytes", exact(1), killed)
    assert cant_tell(change) == "B: not measured, killed"


def test_what_applies_to_neither_is_left_out(tmp_path: Path) -> None:
    nothing = Measurement(value=None, n=0, method="no JSON asked", applies=False)
    table = {"answers.json_delta": nothing, "size.bytes": exact(1)}
    changes = compare_runs(run_of(tmp_path, table), run_of(tmp_path, table, digest=OTHER))
    assert [change.metric for change in changes[Precision.INT4].changes] == ["size.bytes"]


def test_what_tells_how_it_was_measured_is_left_out(tmp_path: Path) -> None:
    table = {"tune.threads": exact(2), "speed.aa_ratio": exact(1), "edge.cases": exact(30)}
    changes = compare_runs(run_of(tmp_path, table), run_of(tmp_path, table, digest=OTHER))
    assert changes[Precision.INT4].changes == []


def test_metric_that_this_version_does_not_know_is_not_judged(tmp_path: Path) -> None:
    change = compared(tmp_path, "taste.sweetness", exact(1), exact(2))
    assert "which direction is better" in cant_tell(change)


def test_answers_to_other_questions_are_not_compared(tmp_path: Path) -> None:
    questions = sample_release().questions
    assert questions is not None
    other = questions.model_copy(update={"digest": "7" * 64})
    table = {"answers.delta": between(0, -0.1, 0.1)}
    change = change_of(
        run_of(tmp_path, table), run_of(tmp_path, table, digest=OTHER, questions=other)
    )
    assert cant_tell(change) == "they were asked other questions"


@pytest.mark.parametrize(
    "name", ["speed.ttft_s", "memory.peak_rss_bytes", "soak.heap_growth_bytes"]
)
def test_two_classes_of_machine_are_not_compared(tmp_path: Path, name: str) -> None:
    elsewhere = sample_environment().model_copy(update={"machine_class": "b" * 64})
    before = run_of(tmp_path, {name: exact(1)})
    after = run_of(tmp_path, {name: exact(2)}, digest=OTHER, environment=elsewhere)
    assert cant_tell(change_of(before, after)) == "measured on machines of two classes"


@pytest.mark.parametrize("name", ["speed.ttft_geomean_s", "lengths.kld_deep", "text.kld_mean"])
def test_workloads_of_two_profiles_are_not_compared(tmp_path: Path, name: str) -> None:
    profiles = (ExaminationProfile.SMOKE, ExaminationProfile.STANDARD)
    smoke, standard = (
        run_of(
            tmp_path,
            {name: between(1.0, 0.9, 1.1)},
            digest=digest,
            conditions=Conditions(questions="9" * 64, profile=profile, revision=1),
        )
        for digest, profile in zip((INT4, OTHER), profiles, strict=True)
    )
    assert "profile smoke, B with standard" in cant_tell(change_of(smoke, standard))


def test_quality_is_compared_across_machines(tmp_path: Path) -> None:
    elsewhere = sample_environment().model_copy(update={"machine_class": "b" * 64})
    before = run_of(tmp_path, {"fidelity.kld_p99": exact(0.1)})
    after = run_of(tmp_path, {"fidelity.kld_p99": exact(0.2)}, digest=OTHER, environment=elsewhere)
    assert change_of(before, after).verdict is REGRESSED


def test_times_of_a_contended_machine_are_not_compared_but_memory_is(tmp_path: Path) -> None:
    table = {"speed.ttft_s": exact(1), "memory.peak_rss_bytes": exact(1)}
    busy = run_of(tmp_path, table, digest=OTHER, notes=["contended: 40 % of the runs"])
    speed, memory = compare_runs(run_of(tmp_path, table), busy)[Precision.INT4].changes
    assert cant_tell(speed) == "B's clock was not fair: the machine was contended"
    assert memory.verdict is SAME


def test_times_are_not_compared_when_the_same_weights_came_out_different(tmp_path: Path) -> None:
    unfair = {"speed.ttft_s": exact(1), "speed.aa_different": exact(1)}
    change = change_of(
        run_of(tmp_path, unfair), run_of(tmp_path, {"speed.ttft_s": exact(1)}, digest=OTHER)
    )
    assert "A's clock was not fair: the same weights" in cant_tell(change)


SLOWER = (between(1.0, 0.99, 1.01), between(1.3, 1.28, 1.32))


def test_two_runs_one_after_the_other_say_nothing_of_speed(tmp_path: Path) -> None:
    runs = [
        run_of(tmp_path, {TTFT: value}, digest=digest)
        for digest, value in zip((INT4, OTHER), SLOWER, strict=True)
    ]
    assert "timed in two runs, one after the other" in cant_tell(change_of(*runs))


def test_speed_is_compared_only_where_the_same_bytes_came_out_the_same(tmp_path: Path) -> None:
    alike = (between(2.0, 1.99, 2.01), between(2.01, 2.0, 2.02))
    assert beside(tmp_path, TTFT, SLOWER, alike).verdict is REGRESSED
    assert "one after the other" in cant_tell(beside(tmp_path, TTFT, SLOWER, SLOWER))
    shared = (alike[0], alike[0])  # one measurement, which says nothing of the second hour
    assert "one after the other" in cant_tell(beside(tmp_path, TTFT, SLOWER, shared))


@pytest.mark.parametrize("name", [TTFT, "energy.joules_per_token", "lengths.latency_misfit"])
def test_same_bytes_are_never_worse_by_the_clock(tmp_path: Path, name: str) -> None:
    runs = [run_of(tmp_path, {name: value}) for value in SLOWER]
    assert "the same bytes in both runs" in cant_tell(change_of(*runs))


def test_single_measurement_of_unknown_noise_is_not_compared(tmp_path: Path) -> None:
    change = compared(tmp_path, "memory.anon_bytes", exact(1000), exact(1500))
    assert "nobody knows how far" in cant_tell(change)


def test_one_measurement_that_both_runs_share_is_the_same_whatever_its_interval(
    tmp_path: Path,
) -> None:
    table = {"fidelity.kld_p99": between(0.1, 0.01, 0.9), "speed.ttft_s": between(1, 0.1, 9)}
    shared = compare_runs(run_of(tmp_path, table), run_of(tmp_path, table))[Precision.INT4]
    assert [change.verdict for change in shared.changes] == [SAME, SAME]
    again = {**table, "fidelity.kld_p99": between(0.1, 0.01, 0.91)}
    measured_again = compare_runs(run_of(tmp_path, table), run_of(tmp_path, again))
    assert measured_again[Precision.INT4].changes[0].verdict is CANT_TELL


def test_runs_without_a_precision_in_common_are_refused(tmp_path: Path) -> None:
    int8 = run_of(tmp_path, {}, variants=[variant(INT8, Precision.INT8, 1)], metrics={INT8: {}})
    with pytest.raises(InputError, match="no precision in common"):
        compare_runs(run_of(tmp_path, {}), int8)


# ---------------------------------------------------------------- question by question


def write_answers(folder: Path, digest: str, right: list[bool], reference: list[bool]) -> None:
    rows = [
        {"variant_id": owner, "suite": suite, "question_id": f"q{number}", "right": flag,
         "stopped": True, "valid_format": True}
        for owner, suite, flags in ((REFERENCE, "reference", reference), (digest, "variant", right))
        for number, flag in enumerate(flags)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_parquet(folder / "outputs.parquet")


def write_divergences(folder: Path, digest: str, kld: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    owners = np.repeat([f"q{number}" for number in range(len(kld) // 10)], 10)
    rows = {"variant_id": digest, "suite": "variant", "question_id": owners, "kld": kld}
    pd.DataFrame(rows).to_parquet(folder / "kld.parquet")


def test_answers_to_the_same_questions_are_paired(tmp_path: Path) -> None:
    """16 lost of 400 prove what two shares of 400 do not."""
    before, after = tmp_path / "a", tmp_path / "b"
    was = [number >= 40 for number in range(400)]
    now = [number >= 56 for number in range(400)]
    write_answers(before, INT4, was, [True] * 400)
    write_answers(after, OTHER, now, [True] * 400)
    wide = {"answers.right": between(0.9, 0.866, 0.926)}
    less = {"answers.right": between(0.86, 0.823, 0.891)}
    change = change_of(run_of(before, wide), run_of(after, less, digest=OTHER))
    assert (change.verdict, change.difference) == (REGRESSED, pytest.approx(-0.04))
    assert change.method.startswith("paired over 400 questions")
    apart = compared(tmp_path, "answers.right", wide["answers.right"], less["answers.right"])
    assert apart.verdict is CANT_TELL


def test_flips_are_paired_each_against_its_own_reference(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    knows = [number < 150 for number in range(200)]
    loses = [number < 110 for number in range(200)]
    write_answers(before, INT4, knows, knows)
    write_answers(after, OTHER, loses, knows)
    table = {"answers.flip_rate": between(0.1, 0.0, 1.0), "answers.harm": between(0.1, 0.0, 1.0)}
    compared_runs = compare_runs(run_of(before, table), run_of(after, table, digest=OTHER))
    changes = compared_runs[Precision.INT4].changes
    assert [change.verdict for change in changes] == [REGRESSED, REGRESSED]
    assert [change.difference for change in changes] == [pytest.approx(0.2)] * 2


def test_variant_that_is_wrong_where_its_reference_is_flips_nothing(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    worse = [number < 110 for number in range(400)]
    write_answers(before, INT4, [True] * 400, [True] * 400)
    write_answers(after, OTHER, worse, worse)
    table = {"answers.flip_rate": between(0.1, 0.0, 1.0), "answers.harm": between(0.1, 0.0, 1.0)}
    compared_runs = compare_runs(run_of(before, table), run_of(after, table, digest=OTHER))
    assert [change.verdict for change in compared_runs[Precision.INT4].changes] == [SAME, SAME]


def test_answers_are_paired_by_their_question_not_by_their_place(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    right = [number >= 200 for number in range(400)]
    write_answers(before, INT4, right, [True] * 400)
    write_answers(after, OTHER, right, [True] * 400)
    rows = pd.read_parquet(after / "outputs.parquet")
    rows.iloc[::-1].to_parquet(after / "outputs.parquet")
    table = {"answers.right": between(0.5, 0.45, 0.55)}
    change = change_of(run_of(before, table), run_of(after, table, digest=OTHER))
    assert (change.verdict, change.difference) == (SAME, 0.0)


def test_answers_that_were_not_asked_for_json_do_not_count(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    for folder, digest in ((before, INT4), (after, OTHER)):
        write_answers(folder, digest, [True] * 400, [True] * 400)
        rows = pd.read_parquet(folder / "outputs.parquet")
        asked = rows["question_id"].str[1:].astype(int) < 250
        rows.assign(json_ok=asked.where(asked, None)).to_parquet(folder / "outputs.parquet")
    table = {"answers.json_valid": between(0.9, 0.8, 1.0)}
    change = change_of(run_of(before, table), run_of(after, table, digest=OTHER))
    assert change.method.startswith("paired over 250 questions")


def test_only_questions_that_both_answered_are_paired(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    write_answers(before, INT4, [True] * 300, [True] * 300)
    write_answers(after, OTHER, [True] * 500, [True] * 500)
    table = {"answers.stopped": between(0.9, 0.8, 1.0)}
    change = change_of(run_of(before, table), run_of(after, table, digest=OTHER))
    assert change.method.startswith("paired over 300 questions")


def test_rows_that_name_a_question_twice_are_not_paired(tmp_path: Path) -> None:
    write_answers(tmp_path, INT4, [True] * 10, [True] * 10)
    rows = pd.read_parquet(tmp_path / "outputs.parquet")
    pd.concat([rows, rows]).to_parquet(tmp_path / "outputs.parquet")
    table = {"answers.right": between(0.9, 0.8, 1.0)}
    change = change_of(run_of(tmp_path, table), run_of(tmp_path, table, digest=OTHER))
    assert change.method.startswith("two runs")


def test_divergences_are_paired_by_question(tmp_path: Path) -> None:
    """The same questions are hard for both: a third more is proven where the means overlap."""
    hard = np.random.default_rng(1).lognormal(-4, 2, 100).repeat(10)
    before, after = tmp_path / "a", tmp_path / "b"
    write_divergences(before, INT4, hard)
    write_divergences(after, OTHER, 1.3 * hard)
    first = {"fidelity.kld_mean": between(float(hard.mean()), 0.05, 0.4)}
    second = {"fidelity.kld_mean": between(1.3 * float(hard.mean()), 0.07, 0.5)}
    change = change_of(run_of(before, first), run_of(after, second, digest=OTHER))
    assert (change.verdict, change.said) == (REGRESSED, "ratio")
    assert change.difference == pytest.approx(1.3)
    assert change.method == "ratio of means, bootstrap over 100 questions"


def test_divergences_on_plain_text_are_not_taken_for_those_on_questions(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    for folder, digest, text in ((before, INT4, 1.0), (after, OTHER, 5.0)):
        write_divergences(folder, digest, np.full(100, 0.1))
        rows = pd.read_parquet(folder / "kld.parquet").assign(corpus="questions")
        plain = rows.assign(corpus="text", kld=text, question_id="prose")
        pd.concat([rows, plain]).to_parquet(folder / "kld.parquet")
    table = {"fidelity.kld_mean": between(0.1, 0.05, 0.2)}
    change = change_of(run_of(before, table), run_of(after, table, digest=OTHER))
    assert (change.verdict, change.difference) == (SAME, pytest.approx(1.0))


def test_divergences_of_other_tokens_are_not_paired(tmp_path: Path) -> None:
    before, after = tmp_path / "a", tmp_path / "b"
    write_divergences(before, INT4, np.full(100, 0.1))
    write_divergences(after, OTHER, np.full(100, 0.1))
    rows = pd.read_parquet(after / "kld.parquet")
    rows.iloc[1:].to_parquet(after / "kld.parquet")
    table = {"fidelity.kld_mean": between(0.1, 0.05, 0.2)}
    change = change_of(run_of(before, table), run_of(after, table, digest=OTHER))
    assert change.method == "two runs, square-and-add of log intervals"


# ---------------------------------------------------------------- the table of kinds


def test_every_metric_that_is_measured_has_a_kind() -> None:
    assert [name for name in POLICY.metrics if kind_of(name) is None] == []


def test_better_is_what_the_gates_ask_for() -> None:
    for gate in POLICY.gates:
        kind = kind_of(gate.metric)
        assert kind is not None
        assert kind.better in (None, "lower" if gate.operator == "<=" else "higher"), gate.name


def test_no_kind_is_hidden_behind_another() -> None:
    names = set(POLICY.metrics)
    reached = {id(kind_of(name)) for name in names}
    known = [kind for kind in KINDS if id(kind) in reached]
    assert known == list(KINDS)


# ---------------------------------------------------------------- the command


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = Settings(home=tmp_path)
    write_run(settings, "20261120T080000Z-demo-aaaaaaaa", {"size.bytes": exact(100)})
    write_run(settings, "20261121T080000Z-demo-bbbbbbbb", {"size.bytes": exact(120)}, OTHER)
    return settings


def register(settings: Settings, run_id: str, model_id: str = "demo-int4-cpu:1") -> None:
    registration = Registration(
        model_id=model_id, variant=INT4, path=settings.home, created=True,
        question="", answer="", right=True,
    )  # fmt: skip
    champion = variant(INT4, Precision.INT4, 1)
    record_champion(settings, "demo", registration, champion, run_id=run_id)


def test_run_is_found_by_id_beginning_folder_model_name_and_as_the_latest(
    settings: Settings,
) -> None:
    register(settings, "20261120T080000Z-demo-aaaaaaaa")
    first = settings.runs / "20261120T080000Z-demo-aaaaaaaa"
    for word in (first.name, "20261120", str(first), "demo-int4-cpu:1", "demo", "Demo"):
        assert run_folder(word, settings) == first, word
    assert run_folder("latest", settings).name.startswith("20261121")


def test_model_that_was_replaced_means_its_own_run(settings: Settings) -> None:
    register(settings, "20261120T080000Z-demo-aaaaaaaa")
    register(settings, "20261121T080000Z-demo-bbbbbbbb", "demo-int4-cpu:2")
    assert run_folder("demo-int4-cpu:1", settings).name.startswith("20261120")
    assert run_folder("demo", settings).name.startswith("20261121")


def test_half_written_run_is_not_the_latest(settings: Settings) -> None:
    write_run(settings, "20261122T080000Z-demo-cccccccc.partial", {})
    assert run_folder("latest", settings).name == "20261121T080000Z-demo-bbbbbbbb"


@pytest.mark.parametrize(
    ("word", "said"),
    [("2026112", "beginning of 2 runs"), ("nobody", "is no run"), ("latest!", "is no run")],
)
def test_word_that_means_no_run_or_several_is_refused(
    settings: Settings, word: str, said: str
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        run_folder(word, settings)
    assert "20261121T080000Z-demo-bbbbbbbb" in str(refused.value)


def test_champion_whose_run_is_gone_is_named(settings: Settings) -> None:
    register(settings, "20261101T080000Z-demo-99999999")
    with pytest.raises(InputError, match="whose folder is gone"):
        run_folder("demo", settings)


def test_latest_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run"):
        run_folder("latest", Settings(home=tmp_path / "empty"))


def shown(
    settings: Settings, first: str, second: str, *, width: int = 100, all_: bool = False
) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, highlight=False)
    print_comparison(console, comparison(first, second, settings), everything=all_)
    return stream.getvalue()


def test_summary_comes_first_and_regressions_before_the_rest(settings: Settings) -> None:
    text = shown(settings, "20261120", "latest")
    assert "INT4: 1 regressed, 0 better, 0 same, 0 can't tell" in text
    assert "x 1.2 [1.2, 1.2]" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_is_the_same_is_shown_on_request_only(settings: Settings) -> None:
    assert "size.bytes" not in shown(settings, "latest", "latest")
    assert "size.bytes" in shown(settings, "latest", "latest", all_=True)
    assert "(the same bytes in both)" in shown(settings, "latest", "latest")


def test_document_is_json_and_says_whether_anything_regressed(settings: Settings) -> None:
    worse = json.loads(json.dumps(comparison("20261120", "latest", settings)))
    better = comparison("latest", "20261120", settings)
    assert (has_regressed(worse), has_regressed(better)) == (True, False)
    (change,) = worse["precisions"]["int4"]["changes"]
    assert (change["metric"], change["verdict"], change["method"]) == (
        "size.bytes", "regressed", "two exact values",
    )  # fmt: skip


@pytest.mark.parametrize(("words", "code"), [("20261120 latest", 3), ("latest latest", 0)])
def test_exit_code_is_three_where_something_regressed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, words: str, code: int
) -> None:
    monkeypatch.setenv("INGOT_HOME", str(settings.home))
    people = CliRunner().invoke(app, ["compare", *words.split()])
    program = CliRunner().invoke(app, ["compare", *words.split(), "--json"])
    assert (people.exit_code, program.exit_code) == (code, code)
    assert "INT4: " in people.stdout
    assert set(json.loads(program.stdout)) == {"a", "b", "precisions"}


def test_interval_without_a_bound_is_shown_and_is_valid_json(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    write_run(settings, "20261120T080000Z-demo-aaaaaaaa", {HEAP: between(6, 5, 7)})
    folder = write_run(settings, "20261121T080000Z-demo-bbbbbbbb", {HEAP: exact(9.0)}, OTHER)
    file = folder / "metrics.json"
    text = file.read_text().replace('"value":9.0,"ci95":null', '"value":9.0,"ci95":[5.0,null]')
    file.write_text(text)
    document = comparison("20261120", "latest", settings)
    assert "Infinity" not in json.dumps(document)
    assert "+inf] " in shown(settings, "20261120", "latest")


def test_damaged_run_is_refused(settings: Settings) -> None:
    (settings.runs / "20261121T080000Z-demo-bbbbbbbb" / "metrics.json").write_text("{}")
    with pytest.raises(InputError):
        comparison("20261120", "latest", settings)
