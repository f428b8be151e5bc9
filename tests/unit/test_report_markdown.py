"""The report reads well, hides nothing, and no text inside it can break it.

`INGOT_UPDATE_GOLDEN=1` rewrites the expected page; look at the difference before keeping it.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.figures import figure, figure_of
from tasks.core.records import Evidence, GateVerdict, Judgement, Measurement, Precision, Release
from tasks.report.markdown import (
    environment_rows,
    gate_rows,
    render_report,
    variants_rows,
    verdict_markdown,
)
from tasks.report.markup import escaped, fenced, table
from tasks.report.metrics_json import Dossier
from tasks.report.usage import sdk_lines
from tests.golden.sample_release import (
    FP16,
    INT4,
    INT8,
    between,
    exact,
    healthy_metrics,
    sample_dossier,
    sample_environment,
    sample_release,
    variant,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "report.md"

Change = Callable[[Release], dict[str, object]]


def report_with(**changes: object) -> str:
    dossier = sample_dossier()
    release = dossier.release.model_copy(update=changes)
    return render_report(dossier.model_copy(update={"release": release}))


def test_report_is_the_page_that_was_agreed_on() -> None:
    page = render_report(sample_dossier())
    if os.environ.get("INGOT_UPDATE_GOLDEN"):
        GOLDEN.write_text(page, encoding="utf-8")
    assert page == GOLDEN.read_text(encoding="utf-8")


def test_verdict_comes_first_in_words() -> None:
    first, second = render_report(sample_dossier()).split("\n\n")[:2]
    assert first == "# demo: INT8 ships"
    assert second.startswith("**INT8 ships: the only one that passes")


def test_release_without_a_champion_says_so_and_shows_nothing_to_use() -> None:
    judgement = Judgement(champion=None, verdicts=[], reason="Nothing ships: x.", advice=["try y"])
    page = report_with(judgement=judgement, registration=None)
    assert page.startswith("# demo: nothing ships\n\n**Nothing ships: x.**")
    assert "Nothing was registered" in page
    assert "- try y" in page
    assert "ingot chat" not in page


def test_gates_that_did_not_pass_are_in_the_report_and_the_others_counted() -> None:
    page = render_report(sample_dossier())
    for verdict in sample_release().judgement.verdicts:
        for gate in verdict.gates:
            row = gate_rows([gate])[0]
            line = f"| {row['gate']} | {row['value [95 %]']} | {row['limit']} |"
            assert (line in page) == (gate.verdict is not GateVerdict.PASS)
    assert "**INT4: FAIL, 23 of 25 gates pass**" in page


def test_variants_table_has_built_and_unbuilt_variants() -> None:
    rows = variants_rows(sample_release())
    assert [(row["variant"], row["verdict"]) for row in rows] == [
        ("INT4", "FAIL"),
        ("INT8", "PASS, ships"),
        ("FP16", "NOT BUILT"),
    ]
    assert rows[0]["flips"] == "0.16 [0.13, 0.19]"
    assert rows[1]["decode tokens/s"] == "not measured"
    assert rows[1]["peak RAM MiB"] == "96.5"
    assert {tuple(row) for row in rows} == {tuple(rows[0])}


def test_failures_that_are_no_precision_make_no_row_but_a_line() -> None:
    failures = {"speed": "the clock was lost"}
    rows = variants_rows(sample_release().model_copy(update={"failures": failures}))
    assert [row["variant"] for row in rows] == ["INT4", "INT8"]
    page = report_with(failures=failures)
    assert "- speed could not be measured: the clock was lost" in page
    assert "speed failed" not in page
    assert "SPEED" not in page


def test_failed_precision_is_written_as_in_the_table() -> None:
    assert "- FP16 failed: no memory" in report_with(failures={"fp16": "no memory"})


def test_peak_memory_says_what_it_is_the_peak_of() -> None:
    page = render_report(sample_dossier())
    assert "ONNX Runtime GenAI's (128 prompt and 32 new tokens, batch 1); a chat session" in page
    unmeasured = {INT4: healthy_metrics() | {"memory.peak_rss_bytes": Measurement(value=None)}}
    assert "Peak RAM is" not in report_with(metrics=unmeasured)


def test_template_parity_with_foundry_local_is_called_what_it_is() -> None:
    assert "by numbers of tokens, not by text" in render_report(sample_dossier())
    assert "by numbers of tokens" not in report_with(metrics={})


def test_policy_of_the_verdict_is_named() -> None:
    dossier = sample_dossier()
    assert f"policy `{dossier.policy_digest[:12]}`)." in render_report(dossier).split("## ")[0]
    unknown = dossier.model_copy(update={"policy_digest": ""})
    assert "Policy" not in render_report(unknown).split("## ")[0]


def test_what_was_not_measured_is_named_with_its_reason() -> None:
    unmeasured = Measurement(value=None, method="the machine was too busy")
    metrics = {
        INT4: healthy_metrics() | {"speed.ttft_s": unmeasured},
        INT8: healthy_metrics() | {"speed.ttft_s": unmeasured},
    }
    del metrics[INT8]["answers.right"]
    page = report_with(metrics=metrics)
    section = page.split("## Not measured")[1].split("##")[0]
    assert "guided.invalid" not in section
    assert "- INT4, INT8: speed.ttft_s: the machine was too busy" in section
    assert "- INT8: answers.right: no examination reported it" in section
    assert "- raw rows missing: kld of 888888888888" in section


@pytest.mark.parametrize(
    ("aa_ratio", "claim"),
    [
        (between(1.02, 0.97, 1.06), "differ by a factor of 1.02 [0.97, 1.06]; smaller"),
        (between(1.36, 1.06, 1.54), "SPEED IS INVALID"),
        (between(1.36, 1.06, 1.54), "Run the same command again on a quiet machine"),
        (between(0.76, 0.68, 0.94), "SPEED IS INVALID"),
        (exact(1.3), "SPEED IS UNCERTAIN in this run: nobody knows"),
        (Measurement(value=None, method="one launch"), "SPEED IS UNCERTAIN"),
    ],
)
def test_unfair_clock_makes_the_speeds_invalid(aa_ratio: Measurement, claim: str) -> None:
    metrics = {INT4: healthy_metrics() | {"speed.aa_ratio": aa_ratio}}
    assert claim in report_with(metrics=metrics)


def test_fp16_comes_with_the_remark_that_it_saves_disk_only() -> None:
    built = [variant(FP16, Precision.FP16, 2_300_000)]
    assert "widened to FP32" in report_with(variants=built)
    assert "widened to FP32" not in render_report(sample_dossier())


def test_wrong_answer_of_the_registered_model_is_not_hidden() -> None:
    registration = sample_release().registration
    assert registration is not None
    page = report_with(registration=registration.model_copy(update={"right": False}))
    assert "THE ANSWER IS WRONG." in page


def test_answer_of_a_model_cannot_break_out_of_its_block() -> None:
    registration = sample_release().registration
    assert registration is not None
    hostile = "```\n# INT4 ships\n````"
    page = report_with(registration=registration.model_copy(update={"answer": hostile}))
    assert f"`````text\n{hostile}\n`````" in page


def test_hostile_text_stays_in_its_cell_and_is_no_markup() -> None:
    hostile = "a | b\n| c * `d` <script> [x](http://y)"
    assert escaped(hostile) == r"a \| b \| c \* \`d\` \<script> [x]\(http://y)"
    assert len(table([{"note": hostile}]).splitlines()) == 3


def test_intervals_and_limits_stay_readable() -> None:
    assert escaped("0.16 [0.13, 0.19] <= 0.2, kld_mean") == "0.16 [0.13, 0.19] <= 0.2, kld_mean"


def test_notes_of_every_examination_name_their_subject() -> None:
    dossier = sample_dossier()
    reference = Evidence(suite="reference", subject="9" * 64, metrics={}, notes=["slow", "exact"])
    page = render_report(dossier.model_copy(update={"evidence": [reference, *dossier.evidence]}))
    assert "- reference, reference: slow\n- reference, reference: exact\n- INT4, answers:" in page


def test_note_that_several_variants_share_is_written_once() -> None:
    dossier = sample_dossier()
    busy = [
        Evidence(suite="speed", subject=subject, metrics={}, notes=["contended"])
        for subject in (INT4, INT8)
    ]
    page = render_report(dossier.model_copy(update={"evidence": busy}))
    assert "- INT4, INT8, speed: contended" in page


def test_environment_rows_say_which_package_is_not_the_pinned_one() -> None:
    rows = environment_rows(sample_environment())
    states = {row["item"]: row["state"] for row in rows}
    assert (states["olive-ai"], states["onnx"], states["torch"]) == ("ok", "differs", "absent")
    assert {tuple(row) for row in rows} == {("item", "found", "wanted", "state")}


def test_verdict_lists_only_gates_that_did_not_pass() -> None:
    judgement = sample_release().judgement
    page = verdict_markdown(judgement)
    assert page.startswith(f"**{judgement.reason}**")
    assert "| INT4 | flip_rate | 0.16 [0.13, 0.19] | <= 0.12 | FAIL |" in page
    assert "| INT8 |" not in page
    passed = sum(gate.verdict is GateVerdict.PASS for gate in judgement.verdicts[0].gates)
    assert f"- INT4: FAIL, {passed} of 25 gates pass" in page


def test_failed_warning_is_marked_as_one() -> None:
    gates = sample_release().judgement.verdicts[0].gates
    warned = next(gate for gate in gates if gate.gate == "kld_p99")
    failed = warned.model_copy(update={"verdict": GateVerdict.FAIL})
    assert gate_rows([failed])[0]["verdict"] == "FAIL (only a warning)"


@pytest.mark.parametrize("index", [Path("/a b/foundry"), Path("C:\\Users\\me\\foundry")])
def test_sdk_example_is_valid_python_with_the_real_names(index: Path) -> None:
    lines = sdk_lines("demo-int8-cpu:2", index)
    constants = {
        node.value for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Constant)
    }
    assert {str(index), "demo-int8-cpu:2"} <= constants


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not measured"),
        (float("nan"), "not a number"),
        (0.0, "0"),
        (-0.02, "-0.02"),
        (0.123456, "0.123"),
        (0.00012345, "0.000123"),
        (0.0000012, "1.2e-06"),
        (96.54, "96.5"),
        (1234.5, "1,234"),
        (1_500_000_000.0, "1,500,000,000"),
        (0.9996, "0.9996"),
        (0.995, "0.995"),
        (1.0023, "1.0023"),
        (0.999999999, "1"),
    ],
)
def test_numbers_are_written_with_three_digits_and_never_as_something_else(
    value: float | None, text: str
) -> None:
    assert figure(value) == text


def test_measurements_are_written_with_their_interval() -> None:
    assert figure_of(between(0.16, 0.13, 0.19)) == "0.16 [0.13, 0.19]"
    assert figure_of(exact(2**21), scale=2**20) == "2"
    assert figure_of(None) == figure_of(Measurement(value=None)) == "not measured"


def test_code_block_is_longer_than_any_inside_it() -> None:
    assert fenced("a ```` b").splitlines()[0] == "`````text"


def test_report_never_needs_what_a_bare_release_lacks() -> None:
    dossier = sample_dossier()
    bare = Dossier(
        release=dossier.release.model_copy(update={"variants": [], "metrics": {}, "failures": {}}),
        evidence=[],
        timings=[],
        written_at=dossier.written_at,
        index=dossier.index,
        frames={},
        frames_missing=[],
    )
    assert "| variant |" not in render_report(bare)


def test_report_says_whom_fp16_is_for_where_there_is_one() -> None:
    said = "FP16 saves disk there, not memory or time. It is for other devices."
    assert said not in report_with()
    assert said in report_with(variants=[variant(FP16, Precision.FP16, 2_000_000)])
