"""Tokens a second of each variant against llama.cpp's files of the same checkpoint, and the memory.

Same threads, same number of tokens, each measurement in a process of its own that loads, runs once
to warm up, and is timed on the second run. Reading every weight once a token is the limit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.arithmetic import Figure, ratio, rounded
from benchmarks.build_variants import newest_builder
from benchmarks.checkpoints import checkpoint_of
from benchmarks.fan_out import gguf_commands, threads_of
from benchmarks.kept import Kept
from benchmarks.machine import GIB
from benchmarks.peers import F16, Q4_0, Q4_K_M, Q8_0, TYPES, llama_cpp
from benchmarks.places import Work
from benchmarks.records import (
    VARIANTS,
    Lane,
    Model,
    NotMeasured,
    Plan,
    Plot,
    Readings,
    Section,
    Table,
)
from benchmarks.runner import cost_of, python, run_rounds, tell, warm
from tasks.core.records import Precision
from tasks.variants.toolchain import BUILD_REVISION

DECODE, PREFILL = "decode_tokens_per_s", "prefill_tokens_per_s"
BYTES, PEAK, CPU = "bytes_per_token", "peak_rss_bytes", "cpu_ms_per_token"


class Ours(NamedTuple):
    """One of our variants; without a block size it is as a release builds it."""

    precision: Precision
    block_size: int | None = None


WIDE = 128
OURS = {Ours(precision): precision.name for precision in VARIANTS} | {
    Ours(precision, WIDE): f"{precision.name}, blocks of {WIDE}"
    for precision in (Precision.INT4, Precision.INT8)
}
PEERS = {kind: f"llama.cpp {kind}" for kind in TYPES}
BANDWIDTH = {1: "bandwidth, 1 thread", 2: "bandwidth, 2 threads"}
RATE = "gb_per_s"

# What a variant is held against: as many bits, scales not counted. Q4_K_M is llama.cpp's usual
# 4 bits.
AGAINST = {
    Ours(Precision.INT4): (Q4_0, Q4_K_M),
    Ours(Precision.INT4, WIDE): (Q4_0, Q4_K_M),
    Ours(Precision.INT8): (Q8_0,),
    Ours(Precision.INT8, WIDE): (Q8_0,),
    Ours(Precision.FP16): (F16,),
}

# ONNX Runtime widens FP16 weights to FP32 on x86 (1.31): twice the bytes of the file are read.
_WIDENED = {Precision.FP16: 2}
_NOT_READ = ("Gather", "GatherBlockQuantized", "GroupQueryAttention", "RotaryEmbedding")


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Time every model, once a round."""
    model = checkpoint_of(plan.size, work)
    lanes = [
        *(_our_lane(ours, model, work, plan) for ours in OURS),
        *(_peer_lane(kind, model, work, plan) for kind in TYPES),
        *(_bandwidth_lane(threads, work) for threads in BANDWIDTH),
    ]
    run_rounds(lanes, plan, kept)


# ---------------------------------------------------------------- the models


def our_models(model: Model, work: Work, plan: Plan, block_size: int | None = None) -> Path:
    """Give the folder of the variants, built by the newest builder if they are not there yet."""
    builder = newest_builder()
    blocks = f"-blocks-{block_size}" if block_size else ""
    folder = work.models / f"{model.size:g}b-{builder}-{BUILD_REVISION}{blocks}"
    if not folder.is_dir():
        tell(f"building the variants of {model.folder.name}{blocks}")
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        names = [ours.precision for ours in OURS if ours.block_size == block_size]
        command = python("benchmarks.build_variants", builder, model.record, partial, *names)
        if block_size:
            command += ["--block-size", str(block_size)]
        cost_of(command, work, environment=threads_of(plan))
        partial.rename(folder)
    return folder


def their_models(model: Model, work: Work, plan: Plan) -> Path:
    """Give the folder of the GGUF files, made if they are not there yet."""
    folder = work.models / f"{model.size:g}b-gguf"
    if not folder.is_dir():
        peer = llama_cpp(work)
        tell(f"converting {model.folder.name} for llama.cpp")
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for command in gguf_commands(peer, model, partial, plan, (Q8_0, Q4_0, Q4_K_M)):
            cost_of(command, work, environment=threads_of(plan))
        partial.rename(folder)
    return folder


# ---------------------------------------------------------------- the lanes


def _our_lane(ours: Ours, model: Model, work: Work, plan: Plan) -> Lane:
    def run(number: int) -> Readings:
        folder = our_models(model, work, plan, ours.block_size) / ours.precision
        warm(folder)
        timed = _timed_run(folder, number, plan)
        steps = plan.new_tokens - 1  # the prefill made the first token's logits
        return {
            DECODE: steps / timed["decode_s"],
            PREFILL: plan.prompt_tokens / timed["prefill_s"],
            CPU: 1000 * timed["cpu_decode_s"] / steps,
            PEAK: float(timed["hwm_b"]),
            BYTES: float(bytes_per_token(folder) * _WIDENED.get(ours.precision, 1)),
        }

    return Lane(OURS[ours], run)


def _timed_run(folder: Path, number: int, plan: Plan) -> dict[str, Any]:
    """Have Ingot's own timing worker load a folder, run once unseen, and time the second run."""
    from tasks.examine.speed.lanes import Lane as TimedLane
    from tasks.examine.speed.lanes import Worker
    from tasks.examine.speed.workload import FolderFacts, prompt_of

    facts = FolderFacts.of(folder)
    prompt = prompt_of(plan.prompt_tokens, facts.vocabulary_size, number)
    options = {"intra_op_num_threads": plan.threads}
    lane = TimedLane(name=folder.name, digest="", folder=folder, session_options=options)
    worker = Worker(lane)
    try:
        worker.run(prompt, plan.new_tokens)
        return worker.run(prompt, plan.new_tokens)
    finally:
        worker.close()


def _peer_lane(kind: str, model: Model, work: Work, plan: Plan) -> Lane:
    def run(_round: int) -> Readings:
        file = their_models(model, work, plan) / f"{kind}.gguf"
        peer = llama_cpp(work)
        with work.scratch("llama-bench") as output:
            # llama-bench warms up by itself. Decoding starts behind the prompt, as ours does.
            tests = {
                PREFILL: ("-p", plan.prompt_tokens, "-n", 0),
                DECODE: ("-p", 0, "-n", plan.new_tokens, "-d", plan.prompt_tokens),
            }
            found: Readings = {}
            for metric, test in tests.items():
                said = output / f"{metric}.json"
                cost = cost_of(peer.bench(file, plan.threads, *test), work, output=said)
                row = one_test(said.read_text(encoding="utf-8"))
                found |= {metric: float(row["avg_ts"]), BYTES: float(row["model_size"])}
                found[PEAK] = max(found.get(PEAK, 0.0), float(cost.peak_rss_bytes))
        return found

    return Lane(PEERS[kind], run)


def one_test(text: str) -> dict[str, Any]:
    """Read the one row that llama-bench gives.

    Raises:
        NotMeasured: it gave none, or more.
    """
    rows: list[dict[str, Any]] = json.loads(text)
    if len(rows) != 1:
        raise NotMeasured(f"llama-bench gave {len(rows)} rows where one was asked for")
    return rows[0]


def _bandwidth_lane(threads: int, work: Work) -> Lane:
    def run(_round: int) -> Readings:
        with work.scratch("bandwidth") as folder:
            said = folder / "rate.json"
            library = work.root / "read_all.so"
            cost_of(python("benchmarks.bandwidth", threads, library), work, output=said)
            found = json.loads(said.read_text(encoding="utf-8"))
        return {RATE: float(found[RATE]), "by_c": float(found["by"] == "C")}

    return Lane(BANDWIDTH[threads], run)


def bytes_per_token(folder: Path) -> int:
    """Add up the weights that one token reads: all but looked-up rows and rotary tables.

    A tied embedding is the head's matrix and is read as such. The KV cache is left out: below 1 %
    of the weights at a few hundred tokens.
    """
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    reads = {
        name for node in graph.node if node.op_type not in _NOT_READ for name in node.input if name
    }
    return sum(
        dict(_places(tensor for tensor in graph.initializer if tensor.name in reads)).values()
    )


def _places(tensors: Iterable[Any]) -> Iterable[tuple[tuple[str, int], int]]:
    """Give place and length of external tensors; two views of one place are one."""
    for tensor in tensors:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            yield (entries["location"], int(entries.get("offset", 0))), int(entries["length"])


# ---------------------------------------------------------------- what it comes to


def figures(kept: Kept) -> dict[str, Figure]:
    """Give what has a target."""
    return {
        "int4_over_q4_0": _faster(kept, DECODE, Ours(Precision.INT4), Q4_0),
        "int8_over_q8_0": _faster(kept, DECODE, Ours(Precision.INT8), Q8_0),
    }


def _faster(kept: Kept, metric: str, ours: Ours, theirs: str) -> Figure:
    names = OURS[ours], PEERS[theirs]
    first, second = (kept.values(name, metric) for name in names)
    return ratio(first, second, kept.why_not(*names))


def tables(kept: Kept) -> list[Table]:
    """Show rates, ratios, and how near the memory's limit decoding comes."""
    lanes = [*OURS.values(), *PEERS.values()]
    rates = Table(
        "Tokens a second",
        ["model", "decode", "prefill", "CPU ms a token", "peak RAM GiB"],
        [
            [
                name,
                kept.figure(name, DECODE).in_words(),
                kept.figure(name, PREFILL).in_words(),
                kept.figure(name, CPU).in_words() if name in OURS.values() else "-",
                kept.figure(name, PEAK).scaled(1 / GIB).in_words(),
            ]
            for name in lanes
        ],
        "CPU time is that of decoding; llama-bench does not tell it apart from loading.",
    )
    against = Table(
        "Against the same bits",
        ["pair", "decode", "prefill"],
        [
            [
                f"{OURS[ours]} over {theirs}",
                _faster(kept, DECODE, ours, theirs).in_words(),
                _faster(kept, PREFILL, ours, theirs).in_words(),
            ]
            for ours, peers in AGAINST.items()
            for theirs in peers
        ],
        f"Scales are not counted: blocks of {WIDE} have a quarter as many, so fewer bytes and more "
        "loss.",
    )
    limit = Table(
        "Against the memory",
        ["model", "MB a token", "limit tokens/s", "part reached"],
        [_limit_row(kept, name) for name in lanes],
        _bandwidth_in_words(kept),
    )
    return [rates, against, limit]


def _limit_row(kept: Kept, name: str) -> list[str]:
    size, rate = kept.figure(name, BYTES), kept.figure(BANDWIDTH[2], RATE)
    if size.value is None or rate.value is None:
        return [name, size.scaled(1e-6).in_words(), *2 * [Figure.missing("").in_words()]]
    limits = {
        number: 1e9 * found / size.value
        for number, found in kept.values(BANDWIDTH[2], RATE).items()
    }
    part = ratio(kept.values(name, DECODE), limits)
    return [
        name,
        rounded(size.value / 1e6),
        Figure.of(limits).in_words(),
        part.in_words(),
    ]


def _bandwidth_in_words(kept: Kept) -> str:
    found = ", ".join(f"{name} {kept.figure(name, RATE).in_words()}" for name in BANDWIDTH.values())
    by = set(kept.values(BANDWIDTH[2], "by_c").values())
    how = {frozenset({1.0}): " by a loop in C", frozenset({0.0}): " by numpy, which reads less"}
    return (
        f"Read in GB/s{how.get(frozenset(by), '')}: {found}. The limit: that of 2 threads over the "
        "bytes of the weights a token reads; FP16 is read as FP32, to which x86 widens it."
    )


def plots(kept: Kept) -> list[Plot]:
    """Draw decoding and prefill, ours beside theirs."""
    drawn = []
    for metric, title in ((DECODE, "Decoding"), (PREFILL, "Prefill")):
        bars = {
            name: value
            for name in (*OURS.values(), *PEERS.values())
            if (value := kept.figure(name, metric).value) is not None
        }
        if bars:
            name = f"{title.lower()}"
            drawn.append(Plot(name, title, "tokens a second", {"": bars}))
    return drawn


SECTION = Section(
    name="decode",
    title="Decoding and prefill",
    about=(
        "Each variant in ONNX Runtime GenAI against llama.cpp's files of the same checkpoint "
        "(`llama-bench`), same threads, same number of tokens, decoding from behind the prompt. "
        f"Blocks of {WIDE} weights that share a scale, not of 32, are `--block-size {WIDE}`."
    ),
    settings=("size", "threads", "prompt_tokens", "new_tokens"),
    measure=measure,
    tables=tables,
    figures=figures,
    plots=plots,
)
