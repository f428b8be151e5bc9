"""The report for people: verdict first, then the evidence, then how to use what ships.

Arranges what it is given; every number was measured, and every verdict reached, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tasks.core.figures import MB, MIB, NOT_MEASURED, figure, figure_of
from tasks.core.questions import MOST_QUESTIONS
from tasks.core.records import (
    Environment,
    GateResult,
    GateVerdict,
    Judgement,
    Measurement,
    Precision,
    Registration,
    Release,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.report.markup import Rows, bullets, escaped, fenced, section, table
from tasks.report.metrics_json import Dossier, StepTiming
from tasks.report.remarks import failures_in_words, remarks
from tasks.report.usage import how_to_use

GIB = 1024**3


def render_report(dossier: Dossier) -> str:
    """Write the whole report as Markdown."""
    release = dossier.release
    sections = [
        _heading(dossier),
        _variants(release),
        _asked(release.registration),
        section("What to try", bullets(release.judgement.advice)),
        section("Use it", how_to_use(release, dossier.index)),
        *(_gates(verdict) for verdict in release.judgement.verdicts),
        section("What the examinations noted", _notes(dossier)),
        section("Not measured", bullets(_not_measured(dossier))),
        section("How it was measured", bullets(_methods(release.metrics))),
        section("What was built", table(_built_rows(release.variants))),
        section("Environment", _environment(release.environment)),
        section("Time", table(_timing_rows(dossier.timings, release.seconds))),
        section("Files of this report", bullets(_files(dossier))),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


# ---------------------------------------------------------------- pieces that others show too


def environment_rows(environment: Environment) -> Rows:
    """Give the machine and its packages as rows: item, found, wanted, state."""
    found = {
        "Python": environment.python,
        "platform": environment.platform,
        "processor": environment.cpu_model,
        "processor features": ", ".join(environment.cpu_features) or "none found",
        "cores": f"{environment.physical_cores} physical, {environment.logical_cores} logical",
        "memory": f"{environment.ram_total_bytes / GIB:.1f} GiB, "
        f"{environment.ram_available_bytes / GIB:.1f} GiB available",
        "disk": f"{environment.disk_free_bytes / GIB:.1f} GiB free",
        "Foundry Local": f"{environment.foundry_version or 'absent'} "
        f"{f'({environment.foundry_detail})' if environment.foundry_detail else ''}".strip(),
        "machine class": environment.machine_class[:12],
    }
    machine = [
        {"item": item, "found": text, "wanted": "", "state": ""} for item, text in found.items()
    ]
    packages = [
        {
            "item": package.name,
            "found": package.installed or "absent",
            "wanted": package.pinned,
            "state": "ok" if package.matches else "differs" if package.installed else "absent",
        }
        for package in environment.packages
    ]
    return machine + packages


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
        for row in gate_rows(
            [gate for gate in verdict.gates if gate.verdict is not GateVerdict.PASS]
        )
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
        f"Report: `{release.report}`",
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def gate_rows(gates: Iterable[GateResult]) -> Rows:
    """Give one row a gate: value with its interval, limit, verdict, why."""
    return [
        {
            "gate": gate.gate,
            "value [95 %]": figure_of(gate.measurement),
            "limit": f"{gate.operator} {figure(gate.limit)}",
            "verdict": _verdict_in_words(gate),
            "why": gate.why,
        }
        for gate in gates
    ]


# ---------------------------------------------------------------- sections


def _heading(dossier: Dossier) -> str:
    release, checkpoint = dossier.release, dossier.release.checkpoint
    champion = _champion(release)
    verdict = f"{champion.precision.value.upper()} ships" if champion else "nothing ships"
    source = (
        f"Checkpoint: {escaped(checkpoint.family)}, {checkpoint.parameters / 1e6:,.1f} M "
        f"parameters, {checkpoint.source_bytes / MB:,.1f} MB {escaped(checkpoint.weight_dtype)}, "
        f"digest `{checkpoint.digest[:12]}`. Run `{release.run_id}`, "
        f"{dossier.written_at:%Y-%m-%d %H:%M} UTC."
    )
    judged = (
        f"From `{checkpoint.path}`; {_asked_what(release)}; "
        f"{f'limits of `{release.policy}`' if release.policy else 'default limits'}"
        + (f" (policy `{dossier.policy_digest[:12]}`)." if dossier.policy_digest else ".")
    )
    title = f"# {escaped(release.name)}: {verdict}"
    return "\n\n".join(
        [title, f"**{escaped(release.judgement.reason)}**", _registered(release), source, judged]
    )


def _asked_what(release: Release) -> str:
    if release.questions is None:
        return "questions unknown"
    count = release.questions.count
    asked = f"{MOST_QUESTIONS:,} of {count:,}" if count > MOST_QUESTIONS else f"{count:,}"
    return f"{asked} questions of `{release.questions.path}`"


def _registered(release: Release) -> str:
    registration = release.registration
    if registration is None:
        return "Nothing was registered. A champion that was there before stays."
    state = "registered" if registration.created else "registered before, with the same bytes"
    return f"In Foundry Local: `{registration.model_id}` ({state})."


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
        "verdict": f"{decided}, ships" if ships else decided,
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


def _gates(verdict: VariantVerdict) -> str:
    return f"## Gates of {_tally(verdict)}\n\n{table(gate_rows(verdict.gates))}"


def _tally(verdict: VariantVerdict) -> str:
    passed = sum(gate.verdict is GateVerdict.PASS for gate in verdict.gates)
    label = f"{verdict.precision.value.upper()}: {verdict.verdict.value}"
    return f"{label}, {passed} of {len(verdict.gates)} gates pass"


def _verdict_in_words(gate: GateResult) -> str:
    if gate.severity is Severity.WARN and gate.verdict is not GateVerdict.PASS:
        return f"{gate.verdict.value} (only a warning)"
    return gate.verdict.value


def _notes(dossier: Dossier) -> str:
    """Give each note once, with all that it is about."""
    labels = {v.digest: v.precision.value.upper() for v in dossier.release.variants}
    about: dict[tuple[str, str], list[str]] = {}
    for part in dossier.evidence:
        for note in part.notes:
            about.setdefault((part.suite, note), []).append(labels.get(part.subject, "reference"))
    return bullets(f"{', '.join(who)}, {suite}: {note}" for (suite, note), who in about.items())


def _not_measured(dossier: Dossier) -> Iterable[str]:
    """Name each metric that has no value once, with the reason and the variants it is about."""
    about: dict[tuple[str, str], list[str]] = {}
    for variant in dossier.release.variants:
        for name, why in _absent(dossier.release, variant).items():
            about.setdefault((name, why), []).append(variant.precision.value.upper())
    names: dict[tuple[str, str], list[str]] = {}
    for (name, why), labels in about.items():
        names.setdefault((", ".join(labels), why), []).append(name)
    yield from (f"{labels}: {', '.join(found)}: {why}" for (labels, why), found in names.items())
    yield from (f"raw rows missing: {missing}" for missing in dossier.frames_missing)


def _absent(release: Release, variant: Variant) -> dict[str, str]:
    found = release.metrics.get(variant.digest, {})
    absent = {name: m.method or "no reason given" for name, m in found.items() if m.value is None}
    asked = [gate.metric for gate in _gates_of(release.judgement, variant)]
    return absent | {name: "no examination reported it" for name in asked if name not in found}


def _gates_of(judgement: Judgement, variant: Variant) -> list[GateResult]:
    return [
        gate
        for verdict in judgement.verdicts
        if verdict.variant == variant.digest
        for gate in verdict.gates
    ]


def _methods(metrics: Mapping[str, Mapping[str, Measurement]]) -> Iterable[str]:
    """Name each method once, with the metrics that were measured by it and their n."""
    users: dict[str, dict[str, int]] = {}
    for found in metrics.values():
        for name, measurement in sorted(found.items()):
            if measurement.value is not None and measurement.method:
                users.setdefault(measurement.method, {}).setdefault(name, measurement.n)
    for method, names in users.items():
        listed = ", ".join(f"{name} (n = {n:,})" for name, n in names.items())
        yield f"{listed}: {method}"


def _built_rows(variants: Sequence[Variant]) -> Rows:
    return [
        {
            "variant": variant.precision.value.upper(),
            "digest": variant.digest[:12],
            "recipe": _recipe(variant),
            "read back from the graph": _read_back(variant),
            "build s": figure(variant.build_seconds),
            "CPU s": figure(variant.build_cpu_s),
            "peak RAM MiB": figure(round(variant.build_peak_rss_bytes / MIB)),
            "context": figure(variant.context_length),
            "made by": variant.toolchain,
        }
        for variant in variants
    ]


def _recipe(variant: Variant) -> str:
    chosen = variant.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"precision"})
    return ", ".join(f"{name} {value}" for name, value in chosen.items()) or "defaults"


def _read_back(variant: Variant) -> str:
    read = variant.quantisation
    bits = [f"{count} x {width} bit" for width, count in sorted(read.bits.items())]
    blocks = [f"block {size}" for size in sorted(read.block_sizes)]
    return ", ".join([*bits, *blocks, f"embedding {read.embedding_bits} bit"])


def _environment(environment: Environment) -> str:
    remarks = [*environment.problems, *environment.warnings]
    parts = [table(environment_rows(environment)), bullets(remarks)]
    return "\n\n".join(part for part in parts if part)


def _timing_rows(timings: Sequence[StepTiming], seconds: float) -> Rows:
    steps = [
        {
            "step": timing.step,
            "seconds": "cached" if timing.cached else f"{timing.seconds:.1f}",
            "ended with": timing.detail,
        }
        for timing in timings
    ]
    return [
        *steps,
        {"step": "all, until the report", "seconds": f"{seconds:.1f}", "ended with": ""},
    ]


def _files(dossier: Dossier) -> Iterable[str]:
    yield "metrics.json: everything above and more, for programs (schema ingot.release/1)"
    for kind, count in sorted(dossier.frames.items()):
        yield f"{kind}.parquet: {count:,} rows, columns run_id and variant_id tell them apart"
