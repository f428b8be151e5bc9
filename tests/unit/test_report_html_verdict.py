"""The first screen says what ships and why, whatever the outcome, in words for anybody."""

from __future__ import annotations

import pytest

from tasks.core.records import (
    GateResult,
    GateVerdict,
    Judgement,
    Measurement,
    Precision,
    Registration,
    Release,
    Severity,
    VariantVerdict,
)
from tasks.report.html.verdict import Verdict, verdict_of
from tests.golden.sample_release import INT4, INT8, between, sample_release, usual_metrics


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def registration() -> Registration:
    found = sample_release().registration
    assert found is not None
    return found


def judged(**verdicts: GateVerdict) -> Release:
    """Give the sample with other verdicts, by precision, and no gates."""
    release = sample_release()
    of = {variant.precision.value: variant.digest for variant in release.variants}
    judgement = Judgement(
        champion=next((of[p] for p, v in verdicts.items() if v is GateVerdict.PASS), None),
        verdicts=[
            VariantVerdict(variant=of[p], precision=Precision(p), verdict=v, gates=[])
            for p, v in verdicts.items()
        ],
        reason="",
        advice=[],
    )
    return release.model_copy(update={"judgement": judgement})


def reasons(verdict: Verdict) -> dict[str, str]:
    return {reason.name: f"{reason.state}: {plain(reason.words)}" for reason in verdict.reasons}


def test_champion_is_named_with_its_size_and_place() -> None:
    verdict = verdict_of(sample_release())
    assert (verdict.state, verdict.headline) == ("good", "INT8 ships")
    assert " ".join(verdict.lede) == (
        "INT8 is the 8-bit copy of demo, and the only variant that passes: 1.9 MB, where "
        "the original checkpoint has 3.4 MB. It is now in Foundry Local as demo-int8-cpu:2: loaded "
        "from there, it answered a test question right."
    )


def test_smaller_variant_says_which_limit_it_breaks_and_by_how_much() -> None:
    verdict = verdict_of(sample_release())
    assert reasons(verdict) == {
        "INT8": "ships: 1.9 MB: passes the 22 gates that can stop a variant, and is the "
        "smallest that does; 99.0 % of its answers are right",
        "INT4": "fails: 1.5 MB, smaller: fails a gate",
        "FP16": "not built: could not be built: the child was killed by SIGKILL. Next: free "
        "memory.",
    }
    details = [plain(line) for line in verdict.reasons[1].details]
    assert details[0].endswith(": 16.0 % [13.0, 19.0], wanted at most 12 %")
    assert details[1].endswith("that lies inside the interval")


def test_larger_variant_that_passes_too_says_that_it_is_larger() -> None:
    verdict = verdict_of(judged(int4=GateVerdict.PASS, int8=GateVerdict.PASS))
    assert "the smallest of the two variants that pass" in verdict.lede[0]
    assert reasons(verdict)["INT8"] == (
        "passes: 1.9 MB: passes too, but is larger; 99.0 % of its answers are right"
    )


def test_undecided_variant_is_not_called_failed() -> None:
    verdict = verdict_of(judged(int4=GateVerdict.INCONCLUSIVE, int8=GateVerdict.PASS))
    assert reasons(verdict)["INT4"] == (
        "undecided: 1.5 MB, smaller: undecided on a gate that it must pass"
    )


def gate(verdict: GateVerdict, severity: Severity) -> GateResult:
    return GateResult(
        gate="g", metric="fidelity.kld_p99", operator="<=", limit=1, severity=severity,
        verdict=verdict, measurement=None, why="",
    )  # fmt: skip


def beside(gates: list[GateResult], not_asked: dict[str, str]) -> tuple[str, str]:
    """Give the words of the champion and what stands beside them."""
    release = judged(int8=GateVerdict.PASS)
    verdict = release.judgement.verdicts[0].model_copy(
        update={"gates": gates, "not_asked": not_asked}
    )
    judgement = release.judgement.model_copy(update={"verdicts": [verdict]})
    reason = verdict_of(release.model_copy(update={"judgement": judgement})).reasons[0]
    return plain(reason.words), reason.beside


def test_gates_that_were_not_passed_are_not_counted_as_passed() -> None:
    gates = [
        gate(GateVerdict.PASS, Severity.BLOCK),
        gate(GateVerdict.PASS, Severity.BLOCK),
        gate(GateVerdict.PASS, Severity.WARN),
        gate(GateVerdict.INCONCLUSIVE, Severity.WARN),
        gate(GateVerdict.FAIL, Severity.WARN),
        gate(GateVerdict.FAIL, Severity.WARN),
    ]
    words, more = beside(gates, {"energy": "no meter"})
    assert "passes the 2 gates that can stop a variant" in words
    assert more == "gates that do not stop it: 1 undecided, 2 warnings, 1 not applicable"


def test_nothing_stands_beside_a_variant_that_passes_whatever_is_asked() -> None:
    words, more = beside([gate(GateVerdict.PASS, Severity.BLOCK)], {})
    assert "passes the gate that can stop a variant" in words
    assert more == ""


def test_release_without_a_champion_says_that_nothing_changed() -> None:
    verdict = verdict_of(judged(int4=GateVerdict.FAIL, int8=GateVerdict.FAIL))
    assert (verdict.state, verdict.headline, verdict.cards) == ("none", "Nothing ships", [])
    assert "Nothing was registered; what served before still serves." in verdict.lede[0]


def test_champion_that_could_not_be_registered_is_no_success() -> None:
    release = sample_release()
    failed = {"failures": {"registration": "the index was locked"}, "registration": None}
    verdict = verdict_of(release.model_copy(update=failed))
    assert (verdict.state, verdict.headline) == (
        "trouble",
        "INT8 was chosen, but is not in Foundry Local",
    )
    assert "could not be registered: the index was locked" in verdict.lede[1]


def test_wrong_first_answer_is_in_the_headline() -> None:
    wrong = registration().model_copy(update={"right": False})
    verdict = verdict_of(sample_release().model_copy(update={"registration": wrong}))
    assert verdict.state == "trouble"
    assert verdict.headline == "INT8 ships, and its first answer was wrong"
    assert verdict.lede[1].endswith("a test question WRONG.")


def test_numbers_that_matter_come_with_their_limit_and_what_they_are_of() -> None:
    cards = verdict_of(sample_release()).cards
    assert [plain(card.cell.value) for card in cards] == [
        "99.0 %", "0.5 %", "not measured", "96.5 MiB",
    ]  # fmt: skip
    assert plain(cards[0].meaning) == (
        "of 400 questions; the original: 99.5 %; limit: at least 80 %"
    )
    assert cards[2].meaning == "the machine was too busy"


@pytest.mark.parametrize(("aa_ratio", "doubted"), [((0.97, 1.04), False), ((1.06, 1.5), True)])
def test_speed_under_an_unfair_clock_is_marked_on_the_first_screen(
    aa_ratio: tuple[float, float], doubted: bool
) -> None:
    metrics: dict[str, dict[str, Measurement]] = {
        INT4: usual_metrics(),
        INT8: usual_metrics() | {"speed.aa_ratio": between(1.2, *aa_ratio)},
    }
    metrics[INT4] = metrics[INT8]
    card = verdict_of(sample_release().model_copy(update={"metrics": metrics})).cards[2]
    assert ("NOT RELIABLE" in card.meaning) is doubted
