"""Saying in words why a variant ships or not, and what to try where a gate did not pass.

Explains a verdict that was reached elsewhere and can not change it. What to try is looked up in
`remedies.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from tasks.core.figures import figure, figure_of
from tasks.core.records import SHIPPABLE, GateResult, GateVerdict, Measurement
from tasks.judge.case import Case, why_unusable
from tasks.judge.remedies import remedy_for

_ERROR_PARTS = re.compile(r"\s(?:Expected|Got|Next): ")
SPEED = "speed"  # timed once for all variants together: a failure of no precision
GATES_NAMED = 3  # a reason is one sentence; the report has the whole table
# The reference's n = 6.18 d/m^2 plans for a one-sided 5 % test with 80 % power. Our gates compare
# the two-sided 95 % interval, so the same formula has 1.96 in the place of 1.645:
# (1.96 + 0.84)^2 = 7.85 d/m^2, which is (2.80 / 1.96)^2 times what the half-width says.
Z_INTERVAL = 1.96
Z_PLANNED = 1.96 + 0.84


# ---------------------------------------------------------------- why


def reason_for(
    champion: Case | None,
    cases: list[Case],
    failures: Mapping[str, str],
    switched_off: list[str],
) -> str:
    """Say in one sentence what ships and why the others do not."""
    opening = _opening(champion, len(cases) + len(failures), cases) if champion else "Nothing ships"
    others = _others(champion, cases, failures)
    if not cases and not failures:
        others = ["no variant was built"]
    sentence = f"{opening}{'; ' if champion else ': '}{', '.join(others)}" if others else opening
    omitted = f" (the policy switches off {', '.join(switched_off)})" if switched_off else ""
    return f"{sentence}{omitted}."


def _opening(champion: Case, tried: int, cases: list[Case]) -> str:
    passing = sum(case.verdict.verdict is GateVerdict.PASS for case in cases)
    alone = "the only one that passes" if tried > 1 else "the only one examined"
    rank = f"smallest of {passing} that pass" if passing > 1 else alone
    ratio = champion.metrics.get("size.ratio_to_source")
    if ratio is None or ratio.value is None:
        return f"{champion.label} ships: {rank}"
    return f"{champion.label} ships: {rank}, {figure(ratio.value)} of the source"


def _others(champion: Case | None, cases: list[Case], failures: Mapping[str, str]) -> list[str]:
    judged = [
        _why_not(case)
        for case in cases
        if case is not champion
        and case.verdict.verdict is not GateVerdict.PASS
        and case.variant.precision.value not in failures
    ]
    # An error's own parts after the first are for the advice: a reason is one sentence.
    broken = [
        f"{_failed(name)}: {_ERROR_PARTS.split(why)[0].rstrip('.')}"
        for name, why in failures.items()
    ]
    return judged + broken


def _failed(subject: str) -> str:
    """Say what failed: a precision, or something that was done once for all of them."""
    if subject == SPEED:
        return "speed could not be measured"
    return f"{subject.upper() if subject in SHIPPABLE else subject} failed"


def _why_not(case: Case) -> str:
    verb = "fails" if case.verdict.verdict is GateVerdict.FAIL else "is undecided on"
    named = [gate for gate in case.blockers if gate.verdict is case.verdict.verdict]
    if not named:
        return f"{case.label} fails: not one blocking gate could be asked and decided"
    return f"{case.label} {verb} {_listed([_gate_in_words(gate) for gate in named])}"


def _listed(names: list[str]) -> str:
    more = len(names) - GATES_NAMED
    return ", ".join(names[:GATES_NAMED]) + (f" and {more} more" if more > 0 else "")


def _gate_in_words(gate: GateResult) -> str:
    if unusable := why_unusable(gate.measurement):
        return f"{gate.gate} ({unusable.partition(':')[0]})"
    if gate.verdict is GateVerdict.INCONCLUSIVE:
        return f"{gate.gate} ({figure_of(gate.measurement)}, limit {figure(gate.limit)})"
    beyond = ">" if gate.operator == "<=" else "<"
    return f"{gate.gate} ({figure_of(gate.measurement)} {beyond} {figure(gate.limit)})"


# ---------------------------------------------------------------- what to try

# What an observation is called, the most particular name first; how many there are depends on the
# question file for the questions, else on the examination profile.
_COUNTED = {
    "answers.worst_category": "questions of that category",
    "answers.": "questions",
    "fidelity.": "",  # its n are tokens, which nobody asks for
    "text.": "windows of text",
    "lengths.": "questions at each length",
    "guided.": "questions with constrained decoding",
    "speed.": "rounds",
    "memory.": "launches",
    "soak.": "generations",
}
# What a paired metric reads when no answer changed; its interval then shrinks with n itself.
_UNCHANGED = {"answers.recovery": 1.0, "answers.stopped_ratio": 1.0}


def advise(cases: list[Case], failures: Mapping[str, str], most_questions: int) -> list[str]:
    """Say for every gate that did not pass what to try; gates with one remedy share one line.

    Args:
        cases: what was judged.
        failures: subject to the reason why it could not be built or examined.
        most_questions: that the examination ever asks.
    """
    lines: dict[str, dict[str, list[str]]] = {}
    for case in cases:
        if case.variant.precision.value in failures:
            continue  # half its metrics are missing for one known reason; that reason is the line
        undecided, others = _undecided_for_want_of_questions(case)
        if undecided:
            text = _more_questions(undecided, most_questions)
            lines.setdefault(text, {})[case.label] = [gate.gate for gate, _ in undecided]
        for gate in others:
            for text in _texts(case, gate):
                lines.setdefault(text, {}).setdefault(case.label, []).append(gate.gate)
    advice = [f"{_subjects(who)}: {text}." for text, who in lines.items()]
    return advice + [_mend(name, why.rstrip(".")) for name, why in failures.items()]


def _undecided_for_want_of_questions(
    case: Case,
) -> tuple[list[tuple[GateResult, int]], list[GateResult]]:
    """Split the gates that did not pass: those that more questions would settle, and the rest."""
    undecided: list[tuple[GateResult, int]] = []
    others: list[GateResult] = []
    for gate in case.worth_advice:
        needed = _needed(gate) if _unit(gate) == "questions" else None
        if needed is None:
            others.append(gate)
        else:
            undecided.append((gate, needed))
    return undecided, others


def _more_questions(undecided: list[tuple[GateResult, int]], most: int) -> str:
    """One number for a variant: the largest that any of its gates needs."""
    have = min(gate.measurement.n for gate, _ in undecided if gate.measurement)
    needed = max(needed for _, needed in undecided)
    planned = f"about {_rounded_up(needed):,}"
    if needed <= most:
        return f"undecided; {planned} questions instead of {have:,} would settle it"
    return (
        f"undecided, and questions alone will not settle it: {planned} would be needed and at most "
        f"{most:,} are asked in this examination profile; take a precision closer to the "
        "reference, or another limit"
    )


def _needed(gate: GateResult) -> int | None:
    """Plan the observations for an undecided gate whose value is on the good side, else None."""
    if gate.verdict is not GateVerdict.INCONCLUSIVE or gate.measurement is None:
        return None
    if not _on_the_good_side(gate):
        return None
    return observations_needed(gate.measurement, gate.limit, nothing_counted=_nothing_changed(gate))


def _mend(subject: str, why: str) -> str:
    if subject == SPEED:
        return (
            f"{_failed(subject)}: {why}. Run the same command again on a quiet machine: what was "
            "not measured is measured again."
        )
    return f"{_failed(subject)}, mend that first: {why}."


def _texts(case: Case, gate: GateResult) -> Iterable[str]:
    if gate.verdict is GateVerdict.INCONCLUSIVE and gate.measurement is not None:
        needed = _needed(gate)
        if needed is not None:
            yield _more(gate, gate.measurement.n, needed)
            return
        yield (
            "undecided, but the value itself is at the limit or past it: more questions alone "
            "would most likely confirm a failure"
        )
    yield remedy_for(case, gate)


def _on_the_good_side(gate: GateResult) -> bool:
    value = gate.measurement.value if gate.measurement else None
    if value is None:
        return False
    return value < gate.limit if gate.operator == "<=" else value > gate.limit


def observations_needed(
    measurement: Measurement, limit: float, *, nothing_counted: bool = False
) -> int | None:
    """Plan how many observations would let the interval clear the limit, with 80 % power.

    Args:
        measurement: what was seen so far.
        limit: of the gate.
        nothing_counted: no event was seen (0 flips of 60: the interval is all upper bound). It
            then shrinks with n itself, else with the root of n.

    Returns:
        None where the value is the limit, or without an interval: more would settle nothing.
    """
    value = measurement.value
    if value is None or measurement.ci95 is None or value == limit:
        return None
    low, high = measurement.ci95
    times = abs((high if limit > value else low) - value) / abs(limit - value)
    if nothing_counted or any(math.isclose(value, end, abs_tol=1e-9) for end in (low, high)):
        # Wilson's upper end at 0 events is z^2 / (n + z^2): n + z^2 grows with the factor.
        return math.ceil(measurement.n * times + Z_INTERVAL**2 * (times - 1))
    return math.ceil(measurement.n * (times * Z_PLANNED / Z_INTERVAL) ** 2)


def _nothing_changed(gate: GateResult) -> bool:
    value = gate.measurement.value if gate.measurement else None
    unchanged = 0.0 if gate.metric.endswith("delta") else _UNCHANGED.get(gate.metric)
    return value is not None and unchanged == value


def _more(gate: GateResult, have: int, needed: int) -> str:
    if unit := _unit(gate):
        planned = f"about {_rounded_up(needed):,} {unit} instead of {have:,}"
    else:
        planned = f"about {figure(math.ceil(10 * needed / have) / 10)} times as many questions"
    return f"undecided; {planned} would settle it (a fuller examination profile measures more)"


def _unit(gate: GateResult) -> str:
    return next((unit for prefix, unit in _COUNTED.items() if gate.metric.startswith(prefix)), "")


def _rounded_up(count: int) -> int:
    """Round up to two digits: a plan is not more exact than that."""
    step: int = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


def _subjects(who: Mapping[str, list[str]]) -> str:
    """Write `INT4 (kld_mean, flip_rate), INT8 (kld_mean)`, and the gates once where all agree."""
    gates = list(who.values())
    if len(who) > 1 and all(names == gates[0] for names in gates):
        return f"{', '.join(who)} ({_listed(gates[0])})"
    return ", ".join(f"{label} ({_listed(names)})" for label, names in who.items())
