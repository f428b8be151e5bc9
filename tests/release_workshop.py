"""Hand-written fakes of every step of a release that needs a tool, for the tests of its order.

Each is held against the real thing in tests/real.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import (
    ToolFailed,
)
from tasks.core.records import (
    Checkpoint,
    Environment,
    Evidence,
    Measurement,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Registration,
    Variant,
)
from tasks.core.reservations import FOLDER, Reservations
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.core.tickets import Ticket
from tasks.environment import check
from tasks.examine import reference as references
from tasks.examine import variant as examinations
from tasks.examine.edge import edge as edges
from tasks.examine.protocol import Protocol
from tasks.examine.soak import soak as soaks
from tasks.examine.soak.task import soak_variant
from tasks.examine.speed import measure as speeds
from tasks.examine.speed import tune as tuning
from tasks.examine.speed.measure import SpeedEvidence
from tasks.examine.speed.tune import Tuned
from tasks.examine.task import (
    examine_edges,
    examine_reference,
    examine_variant,
    measure_speed,
    tune_variants,
)
from tasks.foundry import register, stage
from tasks.foundry.task import stage_variant
from tasks.judge.policy import load_policy
from tasks.report import write
from tasks.variants import build
from tasks.variants.task import build_variant
from tests.judged import healthy

CACHED = [
    build_variant,
    tune_variants,
    examine_reference,
    examine_variant,
    examine_edges,
    soak_variant,
    measure_speed,
    stage_variant,
]
SIZES = {Precision.INT4: 40, Precision.INT8: 60, Precision.FP16: 90, Precision.FP32: 200}


@dataclass
class Workshop:
    """Fakes of every step that needs a tool, with a fault to plant and a count of the calls.

    Attributes:
        wide: precision to the number of looks after which its intervals are narrow enough.
        asked: the most questions of each examination of a variant.
        running: step to the tickets that ran on this machine when it was last called.
    """

    faults: dict[str, list[Exception]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    bad: dict[Precision, str] = field(default_factory=dict)
    unmeasured: str | None = None
    wide: dict[Precision, int] = field(default_factory=dict)
    reference_fault_after: int = 99
    asked: list[int] = field(default_factory=list)
    running: dict[str, list[Ticket]] = field(default_factory=dict)

    def fail(self, step: str, *problems: Exception) -> None:
        self.faults[step] = list(problems)

    def _enter(self, step: str) -> None:
        self.calls[step] += 1
        self.look(step)
        if self.faults.get(step):
            raise self.faults[step].pop(0)

    def look(self, step: str) -> None:
        """Take down what is reserved on this machine at this moment."""
        tickets = Reservations(Settings().machine / FOLDER).tickets()
        self.running[step] = [ticket for ticket in tickets if ticket.capacity_bytes is not None]

    def build(
        self, checkpoint: Checkpoint, recipe: Recipe, *, reserve: Any, forecast_bytes: int, **_: Any
    ) -> Variant:
        with reserve(forecast_bytes):
            self._enter(f"build {recipe.precision}")
        store = Store(Settings().store)
        with store.staging() as folder:
            (folder / "model.onnx").write_text(f"{checkpoint.digest} {recipe.precision}")
            digest = store.publish(folder)
        return Variant(
            checkpoint_digest=checkpoint.digest,
            recipe=recipe,
            digest=digest,
            toolchain="fake",
            size_bytes=SIZES[recipe.precision],
            quantisation=Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32),
            context_length=128,
            eos_token_ids=[1],
            build_seconds=1.0,
            build_cpu_s=1.0,
            build_peak_rss_bytes=1,
        )

    def reference(self, checkpoint: Checkpoint, reference: Variant, *_: Any, **__: Any) -> Evidence:
        self._enter("examine reference")
        if self.calls["examine reference"] > self.reference_fault_after:
            raise ToolFailed("the second look broke")
        return Evidence(suite="reference", subject=reference.digest, metrics={})

    def variant(self, *arguments: Any, protocol: Protocol, **_: Any) -> Evidence:
        variant: Variant = arguments[3]
        self.asked.append(protocol.max_questions)
        self._enter(f"examine {variant.precision}")
        return Evidence(suite="variant", subject=variant.digest, metrics=self._metrics(variant))

    def tune(self, variants: list[Variant], **_: Any) -> Tuned:
        self._enter("tune variants")
        return Tuned(variants=variants, evidence=[], contended=[])

    def edges(self, checkpoint: Checkpoint, variant: Variant, **_: Any) -> Evidence:
        self._enter(f"edge cases {variant.precision}")
        return Evidence(suite="edge", subject=variant.digest, metrics={})

    def soak(self, checkpoint: Checkpoint, variant: Variant, **_: Any) -> Evidence:
        self._enter(f"soak {variant.precision}")
        return Evidence(suite="soak", subject=variant.digest, metrics={})

    def speed(self, variants: list[Variant], **_: Any) -> SpeedEvidence:
        self._enter("measure speed")
        same = Measurement(value=1.0, ci95=(0.99, 1.01), n=8, method="a fair clock")
        measured = {"speed.aa_ratio": same}
        evidence = [Evidence(suite="speed", subject=v.digest, metrics=measured) for v in variants]
        return SpeedEvidence(evidence=evidence)

    def stage(self, checkpoint: Checkpoint, variant: Variant, *_: Any, **__: Any) -> Evidence:
        self._enter(f"stage {variant.precision}")
        return Evidence(suite="foundry", subject=variant.digest, metrics={})

    def register(self, name: str, variant: Variant, question: Question, **_: Any) -> Registration:
        self._enter("register champion")
        return Registration(
            model_id=f"{name}-{variant.precision}-cpu:1",
            variant=variant.digest,
            path=Path("somewhere"),
            created=True,
            question=question.messages[-1].content,
            answer="{}",
            right=True,
        )

    def page(self, folder: Path, *_: Any) -> None:
        self.look("write report")
        (folder / "report.html").write_text("<!doctype html>")

    def _metrics(self, variant: Variant) -> dict[str, Measurement]:
        """Measure everything well within the default limits, except what is planted."""
        found = {"decode.kld_mean": Measurement(value=0.0), **healthy()}
        if broken := self.bad.get(variant.precision):
            gate = next(g for g in load_policy().gates if g.metric == broken)
            limit = gate.limit_for(variant.precision, 1)
            found[broken] = Measurement(value=limit + (9 if gate.operator == "<=" else -9))
        if self.wide.get(variant.precision, 0) >= self.calls[f"examine {variant.precision}"]:
            found["answers.flip_rate"] = Measurement(value=0.1, ci95=(0.01, 0.3), n=500)
        if self.unmeasured:
            found[self.unmeasured] = Measurement(value=None, method="planted")
        return found


def opened_workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """Put the fakes in the place of the tools, for as long as the patch lasts."""
    shop = Workshop()
    monkeypatch.setattr(check, "check_environment", lambda *_, **__: healthy_environment())
    monkeypatch.setattr(build, "build_variant", shop.build)
    monkeypatch.setattr(references, "examine_reference", shop.reference)
    monkeypatch.setattr(examinations, "examine_variant", shop.variant)
    monkeypatch.setattr(tuning, "tune_variants", shop.tune)
    monkeypatch.setattr(edges, "examine_edges", shop.edges)
    monkeypatch.setattr(soaks, "soak_variant", shop.soak)
    monkeypatch.setattr(speeds, "measure_speed", shop.speed)
    monkeypatch.setattr(stage, "examine_in_staging", shop.stage)
    monkeypatch.setattr(register, "register_champion", shop.register)
    monkeypatch.setattr(write, "write_page", shop.page)
    for cached in CACHED:  # the storage was read from the settings when the task was defined
        monkeypatch.setattr(cached, "result_storage", Settings().records)
        monkeypatch.setattr(cached, "retry_delay_seconds", 0)
    return shop


def healthy_environment() -> Environment:
    return Environment(
        python="3.11",
        platform="test",
        cpu_model="test",
        cpu_features=["AVX2"],
        logical_cores=2,
        physical_cores=2,
        ram_total_bytes=64 * 1024**3,
        ram_available_bytes=64 * 1024**3,
        disk_free_bytes=640 * 1024**3,
        packages=[],
        foundry_version="2.2.1",
        foundry_detail="",
        machine_class=hashlib.sha256(b"test").hexdigest(),
        problems=[],
        warnings=[],
    )
