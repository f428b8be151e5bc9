"""What the report lists, in plain words: machine, builds, steps, notes, and what is not known.

Both faces of the report take it from here; how it looks is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tasks.core.figures import MIB, figure
from tasks.core.records import (
    Environment,
    Evidence,
    GateResult,
    GateVerdict,
    Judgement,
    Measurement,
    Release,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.report.markup import Rows
from tasks.report.metrics_json import StepTiming

GIB = 1024**3
NO_REASON = "no reason given"
_WHAT_FRAMES_HOLD = {
    "samples": "each timed run",
    "kld": "each token that was compared with the reference",
    "outputs": "each answer to each question",
    "memory": "memory after each generation of the soak",
    "edge": "each edge case in the engine",
    "foundry_edge": "each edge case through Foundry Local",
    "baits": "each answer to a prompt that baits",
    "lengths": "each answer to a question buried in filler",
    "positions": "divergence by place in the context",
    "latency": "time to the first token by length of the prompt",
    "categories": "right answers by category",
    "launches": "each process that was timed",
    "foundry_cycles": "memory over loads and unloads in Foundry Local",
    "tuning": "the sweep over threads and spinning",
    "metrics": "every figure of this report",
    "control": "each token of the FP32 ONNX model against Hugging Face",
}


def label_of(variant: Variant | VariantVerdict) -> str:
    """Give the name of a variant for people, such as INT4."""
    return variant.precision.value.upper()


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


def built_rows(variants: Sequence[Variant]) -> Rows:
    """Give one row a variant: what was asked of the builder, what it made, what it cost."""
    return [
        {
            "variant": label_of(variant),
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


def timing_rows(timings: Sequence[StepTiming], seconds: float) -> Rows:
    """Give one row a step, and one for all."""
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


def asked_what(release: Release) -> str:
    """Say how many questions the variants were asked at most, as the answers' own n has it."""
    if release.questions is None:
        return "questions unknown"
    count = release.questions.count
    answered = (found.get("answers.right") for found in release.metrics.values())
    asked = max((right.n for right in answered if right), default=0)
    if not asked:
        return f"{count:,} questions, of which no variant answered any"
    return f"{asked:,} of {count:,} questions" if asked < count else f"{count:,} questions"


def tally(verdict: VariantVerdict) -> str:
    """Say how many gates a variant passes."""
    passed = sum(gate.verdict is GateVerdict.PASS for gate in verdict.gates)
    return f"{passed} of {len(verdict.gates)} gates pass"


def verdict_in_words(gate: GateResult) -> str:
    """Give the verdict, and whether it could have kept the variant from shipping."""
    if gate.severity is Severity.WARN and gate.verdict is not GateVerdict.PASS:
        return f"{gate.verdict.value} (only a warning)"
    return gate.verdict.value


def notes(release: Release, evidence: Sequence[Evidence]) -> Iterable[str]:
    """Give each note once, with all that it is about."""
    labels = {variant.digest: label_of(variant) for variant in release.variants}
    about: dict[tuple[str, str], list[str]] = {}
    for part in evidence:
        for note in part.notes:
            about.setdefault((part.suite, note), []).append(_subject(part, labels))
    return (f"{', '.join(who)}, {suite}: {note}" for (suite, note), who in about.items())


def not_measured(release: Release) -> Iterable[str]:
    """Name each metric that should have a value and has none, with the reason and the variants."""
    return _grouped(release, lambda found: found.value is None and found.applies, asked=True)


def not_applicable(release: Release) -> Iterable[str]:
    """Name each metric that has nothing to measure here, with the reason and the variants."""
    return _grouped(release, lambda found: not found.applies, asked=False)


def methods(release: Release) -> Mapping[str, Mapping[str, str]]:
    """Give each method once, with the metrics measured by it and their numbers of observations."""
    users: dict[str, dict[str, set[int]]] = {}
    for found in release.metrics.values():
        for name, measurement in sorted(found.items()):
            if measurement.value is not None:
                method = measurement.method or "no method given"
                users.setdefault(method, {}).setdefault(name, set()).add(measurement.n)
    return {
        method: {name: " / ".join(f"{n:,}" for n in sorted(counts)) for name, counts in of.items()}
        for method, of in users.items()
    }


def files(frames: Mapping[str, int]) -> Iterable[tuple[str, str]]:
    """Give the files of a run: name, and what is in it."""
    yield "report.html", "the whole report with plots, in one file that needs no network"
    yield "report.md", "its short form for terminals"
    yield "metrics.json", "everything for programs, schema ingot.release/2"
    for kind, count in sorted(frames.items()):
        about = _WHAT_FRAMES_HOLD.get(kind, "")
        yield f"{kind}.parquet", f"{count:,} rows{f': {about}' if about else ''}"


def _grouped(
    release: Release, chosen: Callable[[Measurement], bool], *, asked: bool
) -> Iterable[str]:
    about: dict[tuple[str, str], list[str]] = {}
    for variant in release.variants:
        found = release.metrics.get(variant.digest, {})
        absent = {name: m.method or NO_REASON for name, m in found.items() if chosen(m)}
        if asked:
            gates = _metrics_of_gates(release.judgement, variant)
            absent |= {n: "no examination reported it" for n in gates if n not in found}
        for name, why in absent.items():
            about.setdefault((name, why), []).append(label_of(variant))
    names: dict[tuple[str, str], list[str]] = {}
    for (name, why), labels in about.items():
        names.setdefault((", ".join(labels), why), []).append(name)
    return (f"{labels}: {', '.join(found)}: {why}" for (labels, why), found in names.items())


def _metrics_of_gates(judgement: Judgement, variant: Variant) -> list[str]:
    return [
        gate.metric
        for verdict in judgement.verdicts
        if verdict.variant == variant.digest
        for gate in verdict.gates
    ]


def _subject(part: Evidence, labels: Mapping[str, str]) -> str:
    other = "reference" if part.suite == "reference" else part.subject[:12]
    return labels.get(part.subject, other)


def _recipe(variant: Variant) -> str:
    chosen = variant.recipe.model_dump(mode="json", exclude_defaults=True, exclude={"precision"})
    return ", ".join(f"{name} {value}" for name, value in chosen.items()) or "defaults"


def _read_back(variant: Variant) -> str:
    read = variant.quantisation
    bits = [f"{count} x {width} bit" for width, count in sorted(read.bits.items())]
    blocks = [f"block {size}" for size in sorted(read.block_sizes)]
    return ", ".join([*bits, *blocks, f"embedding {read.embedding_bits} bit"])
