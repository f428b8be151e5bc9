"""What the metrics are called on the page, in which order they stand, and how they are written.

Any other metric is shown under its dotted name. What a gate is for is said by the gate itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.report.html.numbers import Kind


@dataclass(frozen=True)
class Label:
    """A metric in words.

    Attributes:
        words: its short name.
        meaning: one half sentence for those who do not know it; says what is better.
        kind: how it is written.
    """

    words: str
    meaning: str
    kind: Kind


# The order is that of the page.
LABELS: dict[str, Label] = {
    "answers.right": Label("Answers right", "share of the domain questions", Kind.SHARE),
    "answers.delta": Label(
        "Against the reference", "right answers more or fewer than the reference's", Kind.POINTS
    ),
    "answers.flip_rate": Label(
        "Answers that changed sides",
        "questions that turned from right to wrong or back; fewer is better",
        Kind.SHARE,
    ),
    "answers.harm": Label("Turned from right to wrong", "fewer is better", Kind.SHARE),
    "answers.same_output": Label("Same answer, token for token", "as the reference's", Kind.SHARE),
    "answers.format_valid": Label("Format kept", "answers in the asked format", Kind.SHARE),
    "answers.schema_valid": Label("Schema kept", "answers that meet the schema", Kind.SHARE),
    "guided.invalid": Label("Invalid when guided", "answers under a grammar", Kind.PLAIN),
    "answers.stopped": Label("Ended by itself", "answers that stop", Kind.SHARE),
    "answers.recovery": Label("Right answers kept", "over the reference's", Kind.SHARE),
    "fidelity.kld_mean": Label(
        "Distance from the reference",
        "mean KL divergence a token, in nats; 0 is the same model",
        Kind.NATS,
    ),
    "fidelity.kld_p99": Label(
        "The same, worst hundredth", "KL divergence, 99th percentile", Kind.NATS
    ),
    "fidelity.top1_decisive": Label(
        "Same token where the reference is sure",
        "of the tokens that the reference gives over half",
        Kind.SHARE,
    ),
    "fidelity.top1_agreement": Label("Same first choice", "of all tokens", Kind.SHARE),
    "fidelity.ppl_ratio": Label("Perplexity", "over the reference's; 1 is equal", Kind.FACTOR),
    "text.kld_mean": Label(
        "Distance on plain text", "mean KL divergence a token, in nats", Kind.NATS
    ),
    "lengths.kld_growth": Label(
        "Distance deep in the context",
        "over that of the same words in a short one; 1 is no loss",
        Kind.FACTOR,
    ),
    "edge.failures": Label("Edge cases failed", "in the engine", Kind.PLAIN),
    "foundry.edge_failures": Label("The same in Foundry Local", "edge cases failed", Kind.PLAIN),
    "speed.ttft_s": Label("Time to the first token", "less is better", Kind.SECONDS),
    "speed.decode_tokens_per_s": Label(
        "Tokens a second", "after the first; more is better", Kind.TOKEN_RATE
    ),
    "speed.prefill_tokens_per_s": Label(
        "Prompt tokens read a second", "more is better", Kind.TOKEN_RATE
    ),
    "speed.cpu_s_per_token": Label(
        "Processor time a token", "steadier than the clock on a busy machine", Kind.SECONDS
    ),
    "speed.itl_p99_s": Label("Slowest gap of 100", "between two tokens", Kind.SECONDS),
    "speed.load_cold_s": Label("Cold start", "to the first token", Kind.SECONDS),
    "speed.load_warm_s": Label("Warm start", "to the first token", Kind.SECONDS),
    "energy.joules_per_token": Label("Energy a token", "above rest", Kind.PLAIN),
    "memory.peak_rss_bytes": Label("Memory at most", "while answering", Kind.MEMORY),
    "memory.load_peak_rss_bytes": Label("Memory while loading", "at most", Kind.MEMORY),
    "memory.peak_rss_full_context_bytes": Label(
        "Memory with the whole context", "at most", Kind.MEMORY
    ),
    "soak.anon_growth_bytes": Label("Memory growth in long use", "bytes a generation", Kind.MEMORY),
    "size.bytes": Label("Size on disk", "all files", Kind.DISK),
    "size.ratio_to_source": Label("Of the checkpoint's size", "less is better", Kind.SHARE),
    "speed.aa_ratio": Label("The same weights timed twice", "1 on a fair clock", Kind.FACTOR),
}

# What the table of variants shows, where it was measured or should have been.
SIDE_BY_SIDE = (
    "answers.right",
    "answers.flip_rate",
    "answers.harm",
    "answers.format_valid",
    "fidelity.kld_mean",
    "fidelity.top1_decisive",
    "speed.ttft_s",
    "speed.decode_tokens_per_s",
    "speed.cpu_s_per_token",
    "memory.peak_rss_bytes",
    "memory.peak_rss_full_context_bytes",
    "soak.anon_growth_bytes",
    "lengths.kld_growth",
    "edge.failures",
    "foundry.edge_failures",
)

GROUPS: dict[str, str] = {
    "answers": "Answers to the questions",
    "guided": "Answers under constrained decoding",
    "fidelity": "Distance from the reference, on the answers",
    "text": "Distance from the reference, on plain text",
    "lengths": "Consistency over lengths",
    "baits": "Prompts that bait, against the reference",
    "edge": "Edge cases, in the engine",
    "foundry": "In Foundry Local",
    "speed": "Speed",
    "memory": "Memory",
    "energy": "Energy",
    "soak": "Long use",
    "tune": "Threads and spinning",
    "size": "Size",
    "decode": "Decoding",
    "template": "Chat template and tokenizer",
    "reference": "The reference itself",
}

_SHARES = (
    "contended",
    "right",
    "right_reference",
    "format_valid",
    "stopped",
    "recovery",
    "harm",
    "flip_rate",
)
_KINDS_BY_ENDING = {
    "_ratio": Kind.FACTOR,
    "_tokens_per_s": Kind.TOKEN_RATE,
    "_delta": Kind.POINTS,
}


def label_for(metric: str) -> Label:
    """Give the label of a metric; one without has its dotted name."""
    return LABELS.get(metric) or Label(metric, "", Kind.PLAIN)


def kind_of(metric: str) -> Kind | None:
    """Say how a metric is written; None leaves it to its unit."""
    if metric in LABELS:
        return LABELS[metric].kind
    name = metric.rpartition(".")[2]
    if name in _SHARES:
        return Kind.SHARE
    endings = sorted(_KINDS_BY_ENDING, key=len, reverse=True)
    return next((_KINDS_BY_ENDING[end] for end in endings if name.endswith(end)), None)


def place_of(metric: str) -> tuple[int, int, str]:
    """Give the sorting key of a metric: its group, its place in `LABELS`, its name."""
    prefix = metric.partition(".")[0]
    groups, known = list(GROUPS), list(LABELS)
    return (
        groups.index(prefix) if prefix in groups else len(groups),
        known.index(metric) if metric in known else len(known),
        metric,
    )
