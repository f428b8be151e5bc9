"""A person's decision reads the same on the page, in the report, at the terminal and in a line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from flows.approval_prompt import require_terminal
from flows.command import app
from tasks.core.errors import InputError
from tasks.core.records import Approval, ApprovalState, Release
from tasks.report.approval import approval_in_words, fate_of_chosen, is_withheld, reason_of
from tasks.report.html.verdict import verdict_of
from tasks.report.markdown import release_markdown, variants_rows
from tasks.report.proposal import proposal_markdown, proposal_rows
from tasks.report.timeline import outcome_of, timeline_row
from tests.conftest import REPOSITORY
from tests.golden.sample_release import sample_release

ASKED = datetime(2026, 11, 22, 12, tzinfo=UTC)


def decided(state: ApprovalState, **fields: object) -> Release:
    approval = Approval(
        state=state,
        instead_of="demo-int8-cpu:1",
        asked_at=ASKED,
        answered_at=ASKED + timedelta(hours=24),
    ).model_copy(update=fields)
    shipped = state is ApprovalState.PROMOTED
    changes = {"approval": approval} | ({} if shipped else {"registration": None})
    return sample_release().model_copy(update=changes)


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            ApprovalState.WAITING,
            "Somebody has to decide whether it ships; until then demo-int8-cpu:1 stays champion.",
        ),
        (ApprovalState.PROMOTED, "Promoted by Ada: good."),
        (
            ApprovalState.REJECTED,
            "Rejected by Ada: good. Nothing was registered; demo-int8-cpu:1 stays champion.",
        ),
        (
            ApprovalState.UNANSWERED,
            "Nobody decided within 24 h. Nothing was registered; demo-int8-cpu:1 stays champion.",
        ),
    ],
)
def test_decision_is_a_sentence(state: ApprovalState, words: str) -> None:
    assert approval_in_words(decided(state, by="Ada", comment="good.")) == words


def test_release_that_nobody_was_asked_about_says_nothing_of_it() -> None:
    release = sample_release()
    assert approval_in_words(release) == ""
    assert reason_of(release) == release.judgement.reason
    assert (is_withheld(release), fate_of_chosen(release)) == (False, "ships")


@pytest.mark.parametrize(
    ("state", "mark"),
    [
        (ApprovalState.WAITING, "PASS, proposed"),
        (ApprovalState.REJECTED, "PASS, rejected"),
        (ApprovalState.UNANSWERED, "PASS, not decided"),
        (ApprovalState.PROMOTED, "PASS, ships"),
    ],
)
def test_withheld_variant_is_not_said_to_ship(state: ApprovalState, mark: str) -> None:
    release = decided(state)
    (row,) = [row for row in variants_rows(release) if row["variant"] == "INT8"]
    assert row["verdict"] == mark


def test_page_of_a_rejected_release_says_so_first_and_marks_nothing_as_shipping() -> None:
    verdict = verdict_of(decided(ApprovalState.REJECTED, comment="too terse"))
    assert (verdict.state, verdict.headline) == ("none", "INT8 passes, and was rejected")
    assert "Rejected: too terse" in verdict.lede[1]
    assert "ships" not in {reason.state for reason in verdict.reasons}


def test_page_of_a_promoted_release_names_who_promoted() -> None:
    verdict = verdict_of(decided(ApprovalState.PROMOTED, by="Ada"))
    assert (verdict.state, verdict.headline) == ("good", "INT8 ships")
    assert "Promoted by Ada." in verdict.lede


def test_short_report_of_a_rejected_release_mentions_no_registration() -> None:
    text = release_markdown(decided(ApprovalState.REJECTED))
    assert "demo-int8-cpu:1 stays champion" in text
    assert "In Foundry Local:" not in text


def test_proposal_shows_old_and_new_and_every_variant() -> None:
    release = decided(ApprovalState.WAITING)
    assert proposal_rows(release) == [
        {"champion now": "demo-int8-cpu:1", "proposed": "INT8 of demo, 1.9 MB"}
    ]
    text = proposal_markdown(release)
    assert release.judgement.reason.partition(":")[0] in text
    assert f"`{release.report}`" in text
    assert "|  | INT4 | INT8 | FP16 |" in text
    assert "| verdict | FAIL | PASS, proposed | NOT BUILT |" in text
    assert "- FP16 failed: the child was killed by SIGKILL." in text


def test_proposal_needs_somebody_who_is_asked() -> None:
    with pytest.raises(ValueError, match="asked"):
        proposal_rows(sample_release())


def test_text_of_a_person_breaks_no_table_and_no_page() -> None:
    release = decided(ApprovalState.REJECTED, comment="a | b <img src=x> `c`", by="](x)")
    assert r"a \| b \<img src=x> \`c\`" in release_markdown(release)


@pytest.mark.parametrize(
    ("release", "outcome"),
    [
        (sample_release(), "INT8 ships"),
        (decided(ApprovalState.REJECTED), "INT8 rejected"),
        (decided(ApprovalState.UNANSWERED), "INT8 not decided"),
        (
            sample_release().model_copy(update={"registration": None}),
            "INT8 could not be registered",
        ),
    ],
)
def test_outcome_in_the_timeline(release: Release, outcome: str) -> None:
    assert outcome_of(release) == outcome


def test_release_without_a_champion_has_a_row_of_the_same_columns() -> None:
    release = sample_release()
    none = release.judgement.model_copy(update={"champion": None})
    refused = release.model_copy(update={"judgement": none, "registration": None})
    faulty = refused.model_copy(update={"environment_faults": ["int4"]})
    assert (outcome_of(refused), outcome_of(faulty)) == ("nothing passes", "unfinished")
    row = timeline_row(refused, ASKED)
    assert row.keys() == timeline_row(release, ASKED).keys()
    assert row["champion"] == "unchanged"


def test_shipped_release_has_its_figures_in_the_row_without_intervals() -> None:
    row = timeline_row(sample_release(), ASKED)
    assert (row["when"], row["champion"], row["MB"]) == (
        "2026-11-22 12:00",
        "demo-int8-cpu:2",
        "1.9",
    )
    assert row["right"] == "0.99"
    assert "[" not in "".join(row.values())


@pytest.mark.parametrize("json", [[], ["--json"]])
def test_asking_without_a_terminal_is_bad_input_at_once(
    ingot_home: object, json: list[str]
) -> None:
    checkpoint = str(REPOSITORY / "demo" / "checkpoint")
    result = CliRunner().invoke(app, ["release", checkpoint, "--approve", *json])
    assert result.exit_code == 2
    assert "needs somebody to ask" in result.output


def test_json_is_refused_even_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    require_terminal(json=False)
    with pytest.raises(InputError, match="--approve"):
        require_terminal(json=True)
