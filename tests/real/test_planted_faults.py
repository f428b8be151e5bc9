"""Every planted fault is caught by the gate that is for it, on the demo checkpoint and real tools.

A fault is planted, the suites that can see it examine it, and the default policy judges. The gate
that catches it is the first in the policy's order that blocks; whatever else blocks must be named
here as a consequence. The same suites let the sound variant pass. (What a whole release does with
sound variants, tests/real/test_release_command.py shows.)
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.core.records import (
    Conditions,
    ExaminationProfile,
    GateVerdict,
    Measurement,
    Precision,
    Severity,
    Variant,
    VariantVerdict,
)
from tasks.examine.protocol import Protocol, Scenario, TimingPlan
from tasks.examine.soak.soak import soak_variant
from tasks.examine.speed import lanes, schedule
from tasks.examine.speed.measure import SpeedRequest, TimedVariant
from tasks.judge.champion import ChampionMetrics
from tasks.judge.judge import NO_CHAMPION, judge_variants
from tasks.judge.policy import load_policy
from tests.examine_subjects import (
    Bench,
    bench_of,
    build_folders,
    changed_copy,
    edit_json,
    publish,
    with_noise,
)
from tests.real.test_examine_soak import PROTOCOL as SOAK
from tests.real.test_examine_soak import Built, soaked_with

pytestmark = pytest.mark.real

PROTOCOL = Protocol.of(ExaminationProfile.SMOKE).model_copy(
    update={"max_questions": 250, "kld_max_questions": 150, "control_max_questions": 8}
)
# What one examination of a variant measures; latency against length belongs to speed.
EXAMINED = (
    *("build.", "size.", "template.", "reference.", "decode.", "fidelity.", "text."),
    *("answers.", "guided.", "lengths.kld", "lengths.f"),
)
PHI_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
)


def blocked_by(bench: Bench, folder: Path, precision: Precision = Precision.INT8) -> list[str]:
    """Examine a folder as a variant of this precision; gives the gates that block it."""
    variant = bench.variant(folder, precision)
    evidence = bench.examine(folder, precision)
    found = {**bench.yardstick.metrics, **evidence.metrics}
    return blocking(judged(bench, variant, found, EXAMINED))


def judged(
    bench: Bench,
    variant: Variant,
    found: dict[str, Measurement],
    suites: tuple[str, ...],
    champion: ChampionMetrics | None = None,
) -> VariantVerdict:
    """Hold a variant against the default gates on what some suites measure."""
    policy = load_policy()
    gates = [gate for gate in policy.gates if gate.metric.startswith(suites)]
    assert gates
    judgement = judge_variants(
        [variant],
        {variant.digest: found},
        policy.model_copy(update={"gates": gates}),
        parameters=bench.checkpoint.parameters,
        failures={},
        conditions=champion.conditions if champion else None,
        champion=champion or NO_CHAMPION,
    )
    (verdict,) = judgement.verdicts
    return verdict


def blocking(verdict: VariantVerdict) -> list[str]:
    """Give the gates that keep a variant from shipping, in the policy's order."""
    return [
        gate.gate
        for gate in verdict.gates
        if gate.severity is Severity.BLOCK and gate.verdict is not GateVerdict.PASS
    ]


@pytest.fixture(scope="module")
def bench(
    tmp_path_factory: pytest.TempPathFactory,
    demo_checkpoint: Path,
    demo_questions: Path,
    stock: dict[str, Path],
) -> Bench:
    scratch = tmp_path_factory.mktemp("faults")
    return bench_of(demo_checkpoint, demo_questions, stock, scratch, PROTOCOL)


def test_sound_variant_passes_every_gate(bench: Bench) -> None:
    assert blocked_by(bench, bench.folders["int8"]) == []


# ---------------------------------------------------------------- faults of the folder


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def foreign_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(PHI_TEMPLATE)


def wrong_eos(folder: Path) -> None:
    edit_json(folder / "genai_config.json", lambda config: config["model"].update(eos_token_id=5))


# What must catch the fault, and what else may block because of it.
SPOILT_ANSWERS = {
    *("answers_right", "answers_delta", "recovery", "flip_rate", "worst_category"),
    *("format_delta", "json_delta", "schema_delta", "found_delta"),
}
NO_PROMPT = {"stopped_ratio", "loops_delta", "wrong_script", "empty_answers", "guided_invalid"}
NOT_RENDERED = {"template_text", "template_tokens"}  # no conversation, so nothing to compare
NO_END = {"stopped_ratio", "loops_delta", "guided_invalid"}


@pytest.mark.parametrize(
    ("plant", "gate", "also"),
    [
        (no_template, "template_conversations", {*NOT_RENDERED, *SPOILT_ANSWERS, *NO_PROMPT}),
        (foreign_template, "template_text", {"template_tokens", *SPOILT_ANSWERS}),
        (wrong_eos, "template_eos", {*SPOILT_ANSWERS, *NO_END}),
    ],
    ids=["no template", "another family's template", "wrong EOS"],
)
def test_fault_of_the_folder_is_caught(
    bench: Bench, plant: Callable[[Path], None], gate: str, also: set[str]
) -> None:
    folder = changed_copy(bench.folders["int8"], bench.scratch / plant.__name__, plant)
    first, *rest = blocked_by(bench, folder)
    assert first == gate
    assert set(rest) <= also


# ---------------------------------------------------------------- faults of the weights


@pytest.fixture(scope="module")
def noisy(bench: Bench) -> dict[str, Path]:
    damaged = with_noise(bench.checkpoint.path, bench.scratch / "noisy", 0.3)
    return build_folders(damaged, bench.scratch / "of-noisy", int8="int8", fp32="fp32")


def test_yardstick_that_is_another_model_is_caught_by_hugging_face(
    bench: Bench, noisy: dict[str, Path]
) -> None:
    wrong = bench_of(
        bench.checkpoint.path,
        bench.questions[:8],
        noisy,
        bench.scratch / "wrong-yardstick",
        PROTOCOL,
    )
    variant = bench.variant(bench.folders["int8"], Precision.INT8)
    found = judged(bench, variant, wrong.yardstick.metrics, ("reference.kld",))
    assert blocking(found) == ["reference_equals_hugging_face"]
    sound = judged(bench, variant, bench.yardstick.metrics, ("reference.kld",))
    assert blocking(sound) == []


def test_damaged_weights_are_caught_by_the_divergence(bench: Bench, noisy: dict[str, Path]) -> None:
    first, *rest = blocked_by(bench, noisy["int8"])
    assert first == "kld_mean"
    assert set(rest) <= {
        "top1_decisive",
        "kld_growth",
        *SPOILT_ANSWERS,
        "found_delta",
        "filler_same",
    }


def test_wrong_rope_base_is_caught_by_the_rotary_tables(bench: Bench) -> None:
    other = bench.scratch / "other-rope"
    shutil.copytree(bench.checkpoint.path, other)
    edit_json(
        other / "config.json", lambda config: config["rope_parameters"].update(rope_theta=9000.0)
    )
    folder = build_folders(other, bench.scratch / "of-rope", int4="int4")["int4"]
    first, *rest = blocked_by(bench, folder, Precision.INT4)
    assert first == "rotary"
    assert set(rest) <= {"kld_growth", "found_delta"}


def test_context_beyond_the_rotary_tables_is_caught_by_their_rows(bench: Bench) -> None:
    def longer(folder: Path) -> None:
        edit_json(
            folder / "genai_config.json",
            lambda config: config["model"].update(
                context_length=config["model"]["context_length"] + 64
            ),
        )

    folder = changed_copy(bench.folders["int8"], bench.scratch / "longer-context", longer)
    assert blocked_by(bench, folder) == ["rotary_rows"]


def test_swapped_variants_are_caught_by_the_bits_of_the_graph(bench: Bench) -> None:
    assert blocked_by(bench, bench.folders["int8"], Precision.INT4) == ["build_bits"]


def test_fp16_that_cannot_decode_is_caught_by_decoding(bench: Bench) -> None:
    first, *rest = blocked_by(bench, bench.folders["fp16"], Precision.FP16)
    assert first == "decode_parity"
    unmeasured = {gate.name for gate in load_policy().gates if gate.metric.startswith(EXAMINED)}
    assert set(rest) <= unmeasured - {"build_bits", "rotary", "template_text", "size_to_source"}


# ---------------------------------------------------------------- faults of a long run


@pytest.fixture(scope="module")
def soaked(bench: Bench) -> Built:
    variant = publish(bench.folders["int4"], Precision.INT4, bench.checkpoint, bench.settings)
    return Built(bench.checkpoint, bench.folders["int4"], variant, bench.settings)


def test_sound_variant_passes_the_soak(bench: Bench, soaked: Built) -> None:
    evidence = soak_variant(
        bench.checkpoint, soaked.variant, protocol=SOAK, settings=bench.settings
    )
    assert blocking(judged(bench, soaked.variant, evidence.metrics, ("soak.",))) == []


@pytest.mark.parametrize(
    ("fault", "gate", "also"),
    [
        ("losing_16_kib", "heap_growth", {"anon_growth"}),
        ("keeping_1_generator_in_25", "heap_growth", {"anon_growth"}),
    ],
    ids=["16 KiB lost an answer", "kept generators"],
)
def test_leak_is_caught_by_the_live_heap(
    bench: Bench, soaked: Built, tmp_path: Path, fault: str, gate: str, also: set[str]
) -> None:
    metrics = soaked_with(fault, soaked, tmp_path)
    first, *rest = blocking(judged(bench, soaked.variant, metrics, ("soak.",)))
    assert first == gate
    assert set(rest) <= also


# ---------------------------------------------------------------- faults of speed


def test_sleep_in_the_decode_loop_is_caught_beside_the_champion(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = changed_copy(bench.folders["int4"], tmp_path / "slow-variant", lambda _: None)
    sleeping_worker(slow, tmp_path, monkeypatch)
    assert blocked_by_the_clock(bench, slow, tmp_path) == ["decode_to_champion"]


def test_copy_of_the_champion_is_not_blocked_by_the_clock(bench: Bench, tmp_path: Path) -> None:
    copy = changed_copy(bench.folders["int4"], tmp_path / "sound-copy", lambda _: None)
    assert blocked_by_the_clock(bench, copy, tmp_path) == []


def blocked_by_the_clock(bench: Bench, folder: Path, frames: Path) -> list[str]:
    """Time a folder beside the champion's; gives the gates that block, on any clock."""
    metrics = timed_beside_champion(folder, bench.folders["int4"], frames)
    assert metrics["speed.decode_to_champion"].ci95
    variant = publish(bench.folders["int4"], Precision.INT4, bench.checkpoint, bench.settings)
    conditions = Conditions(
        questions="0" * 64, profile=ExaminationProfile.SMOKE, revision=PROTOCOL.revision
    )
    champion = ChampionMetrics(
        model_id="demo-int4-cpu:1",
        variant="1" * 64,
        precision=Precision.INT4,
        run_id="before",
        conditions=conditions,
        metrics={},
    )
    suites = ("speed.ttft_to", "speed.decode_to")
    return blocking(judged(bench, variant, metrics, suites, champion))


def sleeping_worker(folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the timing worker of one folder sleep before each token but the first."""
    (scratch / "sleepy_worker.py").write_text(f"""
import sys, time
from pathlib import Path
from tasks.examine.speed import worker
honest, made = worker._next_token, []
def sleepy(generator, *rest):
    if made and made[-1] is generator:
        time.sleep(0.01)
    made[:] = [generator]
    return honest(generator, *rest)
if Path(sys.argv[1]) == Path({str(folder)!r}):
    worker._next_token = sleepy
worker.run(Path(sys.argv[1]), *sys.argv[2:])
""")
    monkeypatch.setattr(lanes, "WORKER", "sleepy_worker")
    monkeypatch.setenv("PYTHONPATH", f"{scratch}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def timed_beside_champion(folder: Path, champion: Path, frames: Path) -> dict[str, Any]:
    """Time a folder and the champion's in turn."""
    plan = TimingPlan(
        scenarios=(Scenario(name="chat", prompt_tokens=64, new_tokens=16),),
        long_tokens=0,
        launches=2,
        rounds=8,
        lengths=(),
        idle_s=0.0,
    )

    def timed(path: Path, digest: str) -> TimedVariant:
        return TimedVariant(
            digest=digest * 64, precision=Precision.INT4, folder=path, size_bytes=2_000_000
        )

    request = SpeedRequest(
        frames=frames,
        variants=[timed(folder, "4")],
        champion=timed(champion, "1"),
        protocol=Protocol(timing=plan, bootstrap_samples=300),
    )
    (evidence,) = schedule.examine(request).evidence
    return evidence.metrics
