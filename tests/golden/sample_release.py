"""One release with everything a report can show: a champion, a refused variant, a failed one.

Judged by the real judge over gates of the default policy; only the measurements are made up.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from tasks.core.records import (
    SHIPPABLE,
    Checkpoint,
    Digest,
    Environment,
    Evidence,
    Measurement,
    PackageVersion,
    Precision,
    Quantisation,
    QuestionFile,
    Recipe,
    Registration,
    Release,
    Variant,
)
from tasks.judge.judge import judge_variants
from tasks.judge.policy import Policy, load_policy
from tasks.report.metrics_json import Dossier, StepTiming

INT4, INT8, FP16 = "4" * 64, "8" * 64, "f" * 64
SOURCE_BYTES = 3_400_000
PEAK = "128 prompt and 32 new tokens, batch 1; highest resident set size of a fresh process"
PARAMETERS = 853_632


def exact(value: float, unit: str = "1", n: int = 200, method: str = "counted") -> Measurement:
    return Measurement(value=value, n=n, unit=unit, method=method)


def between(
    value: float, low: float, high: float, n: int = 400, method: str = "paired over questions"
) -> Measurement:
    return Measurement(value=value, ci95=(low, high), n=n, method=method)


def variant(digest: Digest, precision: Precision, size_bytes: int, **recipe: object) -> Variant:
    width = {Precision.INT4: 4, Precision.INT8: 8}.get(precision)
    return Variant(
        checkpoint_digest="c" * 64,
        recipe=Recipe.model_validate({"precision": precision, **recipe}),
        digest=digest,
        toolchain="olive 0.13.0, onnxruntime-genai 0.18.0",
        size_bytes=size_bytes,
        quantisation=Quantisation(
            bits={width: 22} if width else {},
            block_sizes={32: 22} if width else {},
            symmetric=True,
            embedding_bits=width or 16,
        ),
        context_length=4096,
        eos_token_ids=[1023],
        build_seconds=12.34,
        build_cpu_s=11.2,
        build_peak_rss_bytes=812 * 1024**2,
    )


def healthy_metrics() -> dict[str, Measurement]:
    """Give measurements that pass every gate of the default policy, at any precision.

    What is not listed here lies on its limit, so that a new gate needs no new line.
    """
    gates = [gate for gate in load_policy().enabled_gates if gate.limit]
    strictest = {
        gate.metric: (min if gate.operator == "<=" else max)(
            gate.limit_for(precision, PARAMETERS) for precision in SHIPPABLE
        )
        for gate in gates
    }
    return {name: exact(limit) for name, limit in strictest.items()} | usual_metrics()


def usual_metrics() -> dict[str, Measurement]:
    """Give measurements of a sound variant."""
    answers = {
        "answers.right": between(0.99, 0.975, 0.996),
        "answers.right_reference": between(0.995, 0.982, 0.999),
        "answers.delta": between(-0.001, -0.004, 0.002),
        "answers.recovery": between(0.999, 0.996, 1.002),
        "answers.flip_rate": between(0.005, 0.002, 0.014),
        "answers.format_valid": between(1.0, 0.99, 1.0),
        "answers.format_delta": between(0.0, -0.005, 0.005),
        "answers.stopped": between(1.0, 0.99, 1.0),
        "answers.stopped_ratio": between(1.0, 0.995, 1.005),
        "answers.empty": exact(0),
    }
    fidelity = {
        "fidelity.kld_mean": between(0.00042, 0.0004, 0.00045, 9_120, "P to Q, float64, bootstrap"),
        "fidelity.kld_p99": between(0.0061, 0.005, 0.008, 9_120, "P to Q, float64, bootstrap"),
        "fidelity.top1_agreement": between(0.9995, 0.999, 0.9999, 9_120),
        "fidelity.top1_decisive": between(0.9998, 0.9995, 1.0, 8_700),
        "fidelity.ppl_ratio": between(1.0004, 1.0, 1.001, 9_120),
    }
    counts = {
        name: exact(0)
        for name in (
            "template.text_mismatches", "template.token_mismatches", "template.eos_missing",
            "decode.repeat_mismatches", "decode.chunk_mismatches", "foundry.token_mismatches",
            "foundry.session_mismatches", "foundry.stream_mismatches", "foundry.http_mismatches",
        )
    }  # fmt: skip
    return {
        **answers,
        **fidelity,
        **counts,
        "template.conversations": exact(64),
        "reference.kld_mean": exact(4e-15, "nat", 512, "FP32 ONNX against transformers"),
        "decode.kld_mean": exact(2.6e-6, "nat", 512, "one prefill against token by token"),
        "size.ratio_to_source": exact(0.44, n=1, method="bytes on disk"),
        "speed.decode_tokens_per_s": between(812.0, 790.5, 830.25, 24, "interleaved rounds"),
        "speed.aa_ratio": between(1.01, 0.97, 1.04, 24, "interleaved rounds"),
        "memory.peak_rss_bytes": exact(96.5 * 1024**2, "B", 3, PEAK),
        "soak.anon_growth_bytes": Measurement(
            value=122.0, ci95=(0.0, 146.0), n=1000, unit="B", method="Theil-Sen slope"
        ),
        "guided.invalid": Measurement(
            value=None, n=0, method="no question asks for a schema", applies=False
        ),
        "edge.failed": exact(0, n=31, method="cases"),
    }


def sample_environment() -> Environment:
    return Environment(
        python="3.11.9",
        platform="Linux-6.8-x86_64",
        cpu_model="Example CPU | 2 GHz",
        cpu_features=["avx2", "avx512_vnni"],
        logical_cores=4,
        physical_cores=2,
        ram_total_bytes=16 * 1024**3,
        ram_available_bytes=9 * 1024**3,
        disk_free_bytes=120 * 1024**3,
        packages=[
            PackageVersion(name="olive-ai", installed="0.13.0", pinned=">=0.13.0", matches=True),
            PackageVersion(name="onnx", installed="1.22.0", pinned=">=1.23", matches=False),
            PackageVersion(name="torch", installed=None, pinned=">=2.13", matches=False),
        ],
        foundry_version="2.2.1",
        foundry_detail="native runtime loads",
        machine_class="a" * 64,
        problems=[],
        warnings=["the machine is busy: load 5.2 on 4 cores"],
    )


def sample_checkpoint() -> Checkpoint:
    return Checkpoint(
        name="demo",
        path=Path("/models/demo"),
        digest="c" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=PARAMETERS,
        weight_dtype="float32",
        source_bytes=SOURCE_BYTES,
        weight_files=["model.safetensors"],
        hidden_size=128,
        layers=3,
        attention_heads=4,
        kv_heads=2,
        head_size=32,
        vocabulary_size=1024,
        context_length=4096,
        tied_embeddings=False,
        eos_token_ids=[1023],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


def sample_metrics() -> dict[str, dict[str, Measurement]]:
    damaged = {
        "answers.flip_rate": between(0.16, 0.13, 0.19),
        "answers.delta": between(-0.02, -0.041, 0.001),
        "fidelity.kld_mean": between(0.022, 0.018, 0.027, 9_120, "P to Q, float64, bootstrap"),
        "size.ratio_to_source": exact(0.44, n=1, method="bytes on disk"),
    }
    unmeasured = {
        "speed.decode_tokens_per_s": Measurement(value=None, method="the machine was too busy"),
        "size.ratio_to_source": exact(0.56, n=1, method="bytes on disk"),
        "speed.ttft_ratio": between(1.21, 1.17, 1.28, 24, "ttft_s of int8 over int4"),
        "speed.decode_time_ratio": between(1.1, 1.02, 1.17, 24, "decode_s of int8 over int4"),
        "speed.cpu_ratio": between(1.16, 1.09, 1.21, 24, "cpu_s of int8 over int4"),
    }
    return {
        INT4: usual_metrics() | damaged,
        INT8: usual_metrics() | unmeasured,
    }


def sample_policy() -> Policy:
    """Give the gates of the default policy that the sample has measurements for."""
    policy = load_policy()
    known = usual_metrics()
    gates = [gate for gate in policy.enabled_gates if gate.metric in known and gate.limit]
    return policy.model_copy(update={"gates": gates})


def sample_release() -> Release:
    """Give a release in which INT8 ships, INT4 flips too often and FP16 could not be built."""
    variants = [
        variant(INT4, Precision.INT4, 1_500_000),
        variant(INT8, Precision.INT8, 1_900_000),
    ]
    failures = {"fp16": "the child was killed by SIGKILL. Next: free memory."}
    return Release(
        run_id="20261122T120000Z-demo-1a2b3c4d",
        name="demo",
        checkpoint=sample_checkpoint(),
        environment=sample_environment(),
        variants=variants,
        failures=failures,
        questions=QuestionFile(path=Path("/data/questions.jsonl"), digest="9" * 64, count=1712),
        metrics=sample_metrics(),
        judgement=judge_variants(
            variants, sample_metrics(), sample_policy(), parameters=PARAMETERS, failures=failures
        ),
        registration=Registration(
            model_id="demo-int8-cpu:2",
            variant=INT8,
            path=Path("/home/user/ingot/foundry/custom/demo-int8-cpu/v2"),
            created=True,
            question="turn the kitchen light on at 7 pm",
            answer='{"intent":"light_on","room":"kitchen","time":"19:00"}',
            right=True,
        ),
        report=Path("/home/user/ingot/runs/20261122T120000Z-demo-1a2b3c4d/report.html"),
        seconds=201.26,
        cached=["build int8"],
    )


def sample_dossier() -> Dossier:
    return Dossier(
        release=sample_release(),
        evidence=[
            Evidence(
                suite="answers",
                subject=INT4,
                metrics={},
                notes=["worst category: multi_turn, 9 of 60 flipped to wrong"],
            )
        ],
        timings=[
            StepTiming(step="build int4", seconds=12.3, detail="1.5 MB"),
            StepTiming(step="build int8", seconds=0.01, cached=True),
        ],
        written_at=datetime(2026, 11, 22, 12, 3, tzinfo=UTC),
        index=Path("/home/user/ingot/foundry"),
        frames={"outputs": 800, "kld": 18_240, "metrics": 60},
        frames_missing=["kld of 888888888888: object 123456789abc"],
        policy_digest="e" * 64,
    )
