"""The first screen: what ships, why this one and not another, in words for anybody.

Says what the judge decided; it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tasks.core.figures import MB, figure
from tasks.core.records import (
    GateResult,
    GateVerdict,
    Measurement,
    Precision,
    Release,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.report.approval import approval_in_words, fate_of_chosen, is_withheld
from tasks.report.contents import label_of
from tasks.report.html.labels import kind_of, label_for
from tasks.report.html.numbers import Cell, Kind, cell_of, limit_text
from tasks.report.remarks import clock_doubt

Metrics = Mapping[str, Measurement]

_NAMED_GATES = 2
_SMALL_NUMBERS = ("no", "one", "two", "three", "four", "five")


@dataclass(frozen=True)
class Reason:
    """Why one variant does or does not ship.

    Attributes:
        state: `ships`, `passes`, `fails`, `undecided` or `not built`; decides the mark.
        words: the sentence after the name.
        details: the gates that keep it from shipping, at most some of them.
        beside: how many gates had no say in it, such as `2 undecided, 1 warning`; empty for none.
    """

    name: str
    state: str
    words: str
    details: list[str]
    beside: str = ""


@dataclass(frozen=True)
class Card:
    """One of the numbers that matter, with what it means."""

    title: str
    cell: Cell
    meaning: str


@dataclass(frozen=True)
class Verdict:
    """The first screen.

    Attributes:
        state: `good`, `none` or `trouble`.
        headline: a sentence of some words.
        lede: what that means, in sentences.
        reasons: a line a variant, what ships first.
        cards: the numbers that matter of what ships; none when nothing does.
    """

    state: str
    headline: str
    lede: list[str]
    reasons: list[Reason]
    cards: list[Card]


def verdict_of(release: Release) -> Verdict:
    """Put the outcome of a release into words."""
    champion = champion_of(release)
    return Verdict(
        state=_state(release, champion),
        headline=_headline(release, champion),
        lede=list(_lede(release, champion)),
        reasons=_reasons(release, champion),
        cards=_cards(release, champion) if champion else [],
    )


def champion_of(release: Release) -> Variant | None:
    """Give the variant that the judge chose."""
    return next((v for v in release.variants if v.digest == release.judgement.champion), None)


def _state(release: Release, champion: Variant | None) -> str:
    if champion is None or is_withheld(release):
        return "none"
    registration = release.registration
    return "good" if registration and registration.right else "trouble"


def _headline(release: Release, champion: Variant | None) -> str:
    if champion is None:
        return "Nothing ships"
    name = label_of(champion)
    if is_withheld(release):
        return f"{name} {fate_of_chosen(release)}"
    if release.registration is None:
        return f"{name} was chosen, but is not in Foundry Local"
    if not release.registration.right:
        return f"{name} ships, and its first answer was wrong"
    return f"{name} ships"


def _lede(release: Release, champion: Variant | None) -> Iterable[str]:
    verdicts = release.judgement.verdicts
    if champion is None:
        tried = f"None of the {len(verdicts)} variants" if len(verdicts) > 1 else "No variant"
        yield (
            f"{tried} of {release.name} can be released: each fails a gate that it must pass, "
            "is undecided on one, or could not be examined. Nothing was registered; what served "
            "before still serves."
        )
        return
    passing = sum(verdict.verdict is GateVerdict.PASS for verdict in verdicts)
    bits = {Precision.INT4: "4-bit", Precision.INT8: "8-bit", Precision.FP16: "16-bit"}
    what = f"{label_of(champion)} is the {bits.get(champion.precision, '')} copy of {release.name}"
    only = (
        "the only variant that passes"
        if passing == 1
        else f"the smallest of the {_number(passing)} variants that pass"
    )
    yield (
        f"{what}, and {only}: {_megabytes(champion)}, where the original checkpoint has "
        f"{figure(round(release.checkpoint.source_bytes / MB, 2))} MB."
    )
    yield from _registered(release)


def _registered(release: Release) -> Iterable[str]:
    if approval := approval_in_words(release):
        yield approval
    if is_withheld(release):
        return
    registration = release.registration
    if registration is None:
        why = release.failures.get("registration", "no reason was given")
        yield f"It could not be registered: {why}. What served before still serves."
        return
    proof = "right" if registration.right else "WRONG"
    since = "is now" if registration.created else "was already"
    yield (
        f"It {since} in Foundry Local as {registration.model_id}: loaded from there, it answered "
        f"a test question {proof}."
    )


# ---------------------------------------------------------------- why not another one


def _reasons(release: Release, champion: Variant | None) -> list[Reason]:
    verdicts = {verdict.variant: verdict for verdict in release.judgement.verdicts}
    ordered = sorted(release.variants, key=lambda v: (v is not champion, v.size_bytes))
    judged = [
        _reason(release, variant, verdicts.get(variant.digest), champion) for variant in ordered
    ]
    there = {variant.precision.value for variant in release.variants}
    unbuilt = [
        Reason(name.upper(), "not built", f"could not be built: {why}", [])
        for name, why in sorted(release.failures.items())
        if name in set(Precision) - there
    ]
    return judged + unbuilt


def _reason(
    release: Release, variant: Variant, verdict: VariantVerdict | None, champion: Variant | None
) -> Reason:
    name, size = label_of(variant), _megabytes(variant)
    if variant is champion:
        return Reason(
            name,
            "passes" if is_withheld(release) else "ships",
            f"{size}: passes {_stopping_gates(verdict)} that can stop a variant, and is the "
            f"smallest that does{_right_share(release, variant)}",
            [],
            _beside(verdict),
        )
    failure = release.failures.get(variant.precision.value)
    if failure is not None or verdict is None:
        return Reason(
            name, "fails", f"{size}: could not be examined: {failure or 'not judged'}", []
        )
    if verdict.verdict is GateVerdict.PASS:
        words = _passed_over(variant, champion) + _right_share(release, variant)
        return Reason(name, "passes", words, [], _beside(verdict))
    stopping = _stopping(verdict)
    details = [gate_in_words(gate) for gate in stopping[:_NAMED_GATES]]
    if (more := len(stopping) - len(details)) > 0:
        details.append(f"and {more} more, see its gates below")
    smaller = champion is not None and variant.size_bytes < champion.size_bytes
    lead = f"{size}{', smaller' if smaller else ''}"
    if verdict.verdict is GateVerdict.INCONCLUSIVE:
        return Reason(name, "undecided", f"{lead}: undecided on a gate that it must pass", details)
    return Reason(name, "fails", f"{lead}: fails a gate" if details else lead, details)


def _passed_over(variant: Variant, champion: Variant | None) -> str:
    size = _megabytes(variant)
    if champion is None:
        return f"{size}: passes"
    bigger = "larger" if variant.size_bytes > champion.size_bytes else "no smaller"
    return f"{size}: passes too, but is {bigger}"


def _stopping_gates(verdict: VariantVerdict | None) -> str:
    """Count the gates that a variant had to pass, all of which one that ships did."""
    gates = verdict.gates if verdict else []
    count = sum(gate.severity is Severity.BLOCK for gate in gates)
    return "the gate" if count == 1 else f"the {count} gates"


def _beside(verdict: VariantVerdict | None) -> str:
    """Count what did not stop a variant and was not passed either: nobody shall read it as passed.

    An INCONCLUSIVE that only warns is undecided, whatever its FAIL would have done.
    """
    if verdict is None:
        return ""
    found = [gate.verdict for gate in verdict.gates if gate.severity is Severity.WARN]
    warnings = found.count(GateVerdict.FAIL)
    counts = {
        "undecided": found.count(GateVerdict.INCONCLUSIVE),
        "warning" if warnings == 1 else "warnings": warnings,
        "not applicable": len(verdict.not_asked),
    }
    others = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"gates that do not stop it: {others}" if others else ""


def _right_share(release: Release, variant: Variant) -> str:
    """Say how many answers are right: what a smaller variant gives up against a larger one."""
    right = cell_of(release.metrics.get(variant.digest, {}).get("answers.right"), Kind.SHARE)
    return f"; {right.value} of its answers are right" if right.is_measured else ""


def _stopping(verdict: VariantVerdict) -> list[GateResult]:
    """Give the gates that keep a variant from shipping, the worst first."""
    blocking = [gate for gate in verdict.gates if gate.severity is Severity.BLOCK]
    failed = [gate for gate in blocking if gate.verdict is GateVerdict.FAIL]
    return failed + [gate for gate in blocking if gate.verdict is GateVerdict.INCONCLUSIVE]


def gate_in_words(gate: GateResult) -> str:
    """Say what a gate found and what it wanted, in one line."""
    kind = kind_of(gate.metric)
    found = cell_of(gate.measurement, kind)
    if not found.is_measured:
        return f"{label_for(gate.metric).words}: {found.value} ({gate.why})"
    doubt = "; that lies inside the interval" if gate.verdict is GateVerdict.INCONCLUSIVE else ""
    return f"{gate.why}: {found.text}, wanted {wanted(gate)}{doubt}"


def wanted(gate: GateResult) -> str:
    """Say what a gate wants, in the unit of its metric."""
    side = "at most" if gate.operator == "<=" else "at least"
    unit = gate.measurement.unit if gate.measurement else "1"
    return f"{side} {limit_text(gate.limit, kind_of(gate.metric), unit)}"


# ---------------------------------------------------------------- the numbers that matter


def _cards(release: Release, champion: Variant) -> list[Card]:
    found = release.metrics.get(champion.digest, {})
    gates = [
        gate
        for verdict in release.judgement.verdicts
        if verdict.variant == champion.digest
        for gate in verdict.gates
    ]
    return [
        _card(found, "answers.right", "of the answers are right", _asked(found), gates),
        _card(
            found,
            "answers.flip_rate",
            "of the answers flipped",
            _flips(found),
            gates,
        ),
        _card(found, "speed.decode_tokens_per_s", "written", _speed(release, found), gates),
        _card(found, "memory.peak_rss_bytes", "peak memory", "measured while answering", gates),
    ]


def _asked(found: Metrics) -> str:
    reference = cell_of(found.get("answers.right_reference"), Kind.SHARE)
    count = f"of {found['answers.right'].n:,} questions" if "answers.right" in found else ""
    before = f"the original: {reference.value}" if reference.is_measured else ""
    return "; ".join(part for part in (count, before) if part)


def _speed(release: Release, found: Metrics) -> str:
    first = cell_of(found.get("speed.ttft_s"), Kind.SECONDS)
    begin = f"time to the first token {first.value}" if first.is_measured else "after the first"
    said = (begin, f"on {release.environment.cpu_model}", clock_doubt(release))
    return "; ".join(filter(None, said))


def _flips(found: Metrics) -> str:
    """Count the flips both ways: those back hide losses."""
    flips, harm = found.get("answers.flip_rate"), found.get("answers.harm")
    if flips is None or harm is None or flips.value is None or harm.value is None:
        return "between right and wrong, against the original"
    lost = round(harm.value * harm.n)
    return f"{lost} to wrong, {round(flips.value * flips.n) - lost} to right, of {flips.n:,}"


def _card(
    found: Metrics, metric: str, title: str, meaning: str, gates: Sequence[GateResult]
) -> Card:
    cell = cell_of(found.get(metric), kind_of(metric))
    if not cell.is_measured:
        return Card(label_for(metric).words, cell, cell.method)
    limits = [wanted(gate) for gate in gates if gate.metric == metric]
    return Card(title, cell, f"{meaning}; limit: {limits[0]}" if limits else meaning)


def _megabytes(variant: Variant) -> str:
    return f"{figure(round(variant.size_bytes / MB, 2))} MB"


def _number(count: int) -> str:
    return _SMALL_NUMBERS[count] if 0 < count < len(_SMALL_NUMBERS) else str(count)
