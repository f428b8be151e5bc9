"""The short report, for terminals: verdict first, what did not pass, how to use what ships.

Arranges what it is given; every number was measured, and every verdict reached, elsewhere. The
whole report, with plots, methods and machine, is `html/page.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tasks.core.figures import MB, MIB, NOT_MEASURED, figure, figure_of
from tasks.core.records import (
    GateResult,
    GateVerdict,
    Judgement,
    Precision,
    Registration,
    Release,
    Variant,
    VariantVerdict,
)
from tasks.report.approval import approval_in_words, fate_of_chosen, is_withheld
from tasks.report.contents import (
    asked_what,
    environment_rows,
    files,
    label_of,
    not_measured,
    notes,
    tally,
    timing_rows,
    verdict_in_words,
)
from tasks.report.markup import Rows, bullets, escaped, fenced, section, table
from tasks.report.metrics_json import Dossier
from tasks.report.remarks import failures_in_words, remarks
from tasks.report.usage import how_to_use

__all__ = [
    "environment_rows",
    "gate_rows",
    "release_markdown",
    "render_report",
    "variants_rows",
    "verdict_markdown",
]


def render_report(dossier: Dossier) -> str:
    """Write the short report as Markdown."""
    release = dossier.release
    sections = [
        _heading(dossier),
        _variants(release),
        _asked(release.registration),
        section("What to try", bullets(release.judgement.advice)),
        _use(release, dossier.index),
        _gates(release.judgement),
        section("What the examinations noted", bullets(notes(release, dossier.evidence))),
        section("Not measured", bullets(_not_measured(dossier))),
        section("Time", table(timing_rows(dossier.timings, release.seconds))),
        section("Files of this report", bullets(f"{n}: {w}" for n, w in files(dossier.frames))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


# ---------------------------------------------------------------- pieces that others show too


def variants_rows(release: Release, *, intervals: bool = True) -> Rows:
    """Give one row a variant, with those that could not be built.

    Args:
        release: the outcome.
        intervals: with the 95 % intervals; without them a row fits a terminal of 80 columns.
    """
    verdicts = {verdict.variant: verdict for verdict in release.judgement.verdicts}
    built = [
        _variant_row(release, variant, verdicts.get(variant.digest), intervals=intervals)
        for variant in release.variants
    ]
    there = {variant.precision.value for variant in release.variants}
    unbuilt = [name for name in release.failures if name in set(Precision) - there]
    return built + [_row_without_variant(name.upper()) for name in unbuilt]


def verdict_markdown(judgement: Judgement) -> str:
    """Give the verdict in words, the gates that did not pass, and what to try."""
    rows = [
        {"variant": verdict.precision.value.upper(), **row}
        for verdict in judgement.verdicts
        for row in gate_rows(_not_passed(verdict))
    ]
    sections = [
        f"**{escaped(judgement.reason)}**",
        "\n".join(f"- {_tally(verdict)}" for verdict in judgement.verdicts),
        table(rows),
        section("What to try", bullets(judgement.advice)),
    ]
    return "\n\n".join(section for section in sections if section)


def release_markdown(release: Release) -> str:
    """Give the verdict, what was registered and answered, and where the report is."""
    sections = [
        verdict_markdown(release.judgement),
        _registered(release),
        _asked(release.registration),
        f"Report, with plots: `{release.report}`",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def gate_rows(gates: Iterable[GateResult]) -> Rows:
    """Give one row a gate: value with its interval, limit, verdict, why."""
    return [
        {
            "gate": gate.gate,
            "value [95 %]": figure_of(gate.measurement),
            "limit": f"{gate.operator} {figure(gate.limit)}",
            "verdict": verdict_in_words(gate),
            "why": gate.why,
        }
        for gate in gates
    ]


# ---------------------------------------------------------------- sections


def _heading(dossier: Dossier) -> str:
    release, checkpoint = dossier.release, dossier.release.checkpoint
    champion = _champion(release)
    fate = fate_of_chosen(release)
    verdict = f"{champion.precision.value.upper()} {fate}" if champion else "nothing ships"
    source = (
        f"Checkpoint: {escaped(checkpoint.family)}, {checkpoint.parameters / 1e6:,.1f} M "
        f"parameters, {checkpoint.source_bytes / MB:,.1f} MB {escaped(checkpoint.weight_dtype)}, "
        f"digest `{checkpoint.digest[:12]}`. Run `{release.run_id}`, "
        f"{dossier.written_at:%Y-%m-%d %H:%M} UTC."
    )
    asked = asked_what(release) + (f" of `{release.questions.path}`" if release.questions else "")
    judged = (
        f"From `{checkpoint.path}`; {asked}; "
        f"{f'limits of `{release.policy}`' if release.policy else 'default limits'}"
        + (f" (policy `{dossier.policy_digest[:12]}`)." if dossier.policy_digest else ".")
    )
    title = f"# {escaped(release.name)}: {verdict}"
    return "\n\n".join(
        [title, f"**{escaped(release.judgement.reason)}**", _registered(release), source, judged]
    )


def _registered(release: Release) -> str:
    registration, approval = release.registration, escaped(approval_in_words(release))
    if is_withheld(release):
        return approval
    if registration is None:
        nothing = "Nothing was registered. A champion that was there before stays."
        return f"{approval} {nothing}".strip()
    state = "registered" if registration.created else "registered before, with the same bytes"
    return f"In Foundry Local: `{registration.model_id}` ({state}). {approval}".strip()


def _champion(release: Release) -> Variant | None:
    return next((v for v in release.variants if v.digest == release.judgement.champion), None)


def _variants(release: Release) -> str:
    lines = [*failures_in_words(release.failures), *remarks(release)]
    return section(
        "Variants",
        "\n\n".join(part for part in [table(variants_rows(release)), bullets(lines)] if part),
    )


def _variant_row(
    release: Release, variant: Variant, verdict: VariantVerdict | None, *, intervals: bool
) -> dict[str, str]:
    found = release.metrics.get(variant.digest, {})
    if not intervals:
        found = {name: m.model_copy(update={"ci95": None}) for name, m in found.items()}
    ships = variant.digest == release.judgement.champion
    decided = verdict.verdict.value if verdict else "not judged"
    row = _row_without_variant(variant.precision.value.upper())
    return row | {
        "size MB": figure(round(variant.size_bytes / MB, 2)),
        "of the source": figure(variant.size_bytes / release.checkpoint.source_bytes),
        "KL divergence": figure_of(found.get("fidelity.kld_mean")),
        "flips": figure_of(found.get("answers.flip_rate")),
        "answers right": figure_of(found.get("answers.right")),
        "decode tokens/s": figure_of(found.get("speed.decode_tokens_per_s")),
        "peak RAM MiB": figure_of(found.get("memory.peak_rss_bytes"), scale=MIB),
        "verdict": f"{decided}, {fate_of_chosen(release, short=True)}" if ships else decided,
    }


def _row_without_variant(label: str) -> dict[str, str]:
    numbers = (
        "size MB", "of the source", "KL divergence", "flips", "answers right", "decode tokens/s",
        "peak RAM MiB",
    )  # fmt: skip
    return {"variant": label, **dict.fromkeys(numbers, NOT_MEASURED), "verdict": "NOT BUILT"}


def _asked(registration: Registration | None) -> str:
    if registration is None:
        return ""
    verdict = "The answer is right." if registration.right else "THE ANSWER IS WRONG."
    return section(
        "Asked in Foundry Local",
        f"Question:\n\n{fenced(registration.question)}\n\n"
        f"Answer of `{registration.model_id}`:\n\n{fenced(registration.answer)}\n\n{verdict}",
    )


def _gates(judgement: Judgement) -> str:
    """Give the gates that did not pass; the others are in report.html."""
    parts = []
    for verdict in judgement.verdicts:
        rows = gate_rows(_not_passed(verdict))
        parts += [f"**{_tally(verdict)}**", *([table(rows)] if rows else [])]
    return section("Gates", "\n\n".join(parts))


def _not_passed(verdict: VariantVerdict) -> list[GateResult]:
    return [gate for gate in verdict.gates if gate.verdict is not GateVerdict.PASS]


def _use(release: Release, index: Path | None) -> str:
    steps = how_to_use(release, index)
    return section(
        "Use it",
        "\n\n".join(f"{step.words}\n\n{fenced(step.code, step.language)}" for step in steps),
    )


def _tally(verdict: VariantVerdict) -> str:
    return f"{label_of(verdict)}: {verdict.verdict.value}, {tally(verdict)}"


def _not_measured(dossier: Dossier) -> Iterable[str]:
    yield from not_measured(dossier.release)
    yield from (f"raw rows missing: {missing}" for missing in dossier.frames_missing)
