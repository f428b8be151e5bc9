"""Variants for the examination's tests: built by the stock builder, healthy or with planted faults.

Not by Ingot's own builder, so that a fault there cannot hide one here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.child import QUIET_ENVIRONMENT
from tasks.core.files import folder_bytes
from tasks.core.questions import load_questions
from tasks.core.records import (
    Checkpoint,
    Evidence,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.protocol import Protocol
from tasks.examine.reference import examine_reference
from tasks.examine.variant import examine_variant

_BUILD = """
import sys
from onnxruntime_genai.models import builder
source, cache, *jobs = sys.argv[1:]
for job in jobs:
    folder, precision, *options = job.split(",")
    call = (source, source, folder, precision, "cpu", cache)
    builder.create_model(*call, **builder.parse_extra_options(*call, options))
"""


def build_folders(source: Path, target: Path, **jobs: str) -> dict[str, Path]:
    """Build folders by name; a job is `precision` or `precision,option=value`."""
    folders = {name: target / name for name in jobs}
    subprocess.run(
        [
            *(sys.executable, "-c", _BUILD, str(source), str(target / "cache")),
            *(f"{folders[name]},{job}" for name, job in jobs.items()),
        ],
        check=True,
        capture_output=True,
        env={**os.environ, **QUIET_ENVIRONMENT},
    )
    return folders


def with_noise(source: Path, target: Path, share: float) -> Path:
    """Copy a checkpoint and add noise of this share of each matrix's spread to its weights."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(source, target)
    rng = np.random.default_rng(0)
    weights = load_file(target / "model.safetensors")
    noisy = {
        name: (tensor + share * tensor.std() * rng.standard_normal(tensor.shape)).astype(
            tensor.dtype
        )
        if tensor.ndim > 1
        else tensor
        for name, tensor in weights.items()
    }
    save_file(noisy, target / "model.safetensors", metadata={"format": "pt"})
    return target


def changed_copy(folder: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """Copy a built folder and plant a fault in the copy."""
    shutil.copytree(folder, target)
    change(target)
    return target


def edit_json(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def publish(
    folder: Path, precision: Precision, checkpoint: Checkpoint, settings: Settings
) -> Variant:
    """Put a built folder into the store and give its record."""
    store = Store(settings.store)
    with store.staging() as staged:
        shutil.copytree(folder, staged / "model")
        digest = store.publish(staged / "model")
    model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
    return Variant(
        checkpoint_digest=checkpoint.digest,
        recipe=Recipe(precision=precision),
        digest=digest,
        toolchain="stock builder",
        size_bytes=folder_bytes(folder),
        quantisation=Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32),
        context_length=model["context_length"],
        eos_token_ids=checkpoint.eos_token_ids,
        build_seconds=0.0,
        build_cpu_s=0.0,
        build_peak_rss_bytes=0,
    )


def admitted(path: Path) -> Checkpoint:
    """Admit a checkpoint under a fixed name."""
    return admit_checkpoint(path, name="examined", say=lambda line: None)


@dataclass(frozen=True)
class Bench:
    """A checkpoint, its reference, what that answers, and stock folders by precision."""

    checkpoint: Checkpoint
    questions: list[Question]
    settings: Settings
    folders: dict[str, Path]
    scratch: Path
    protocol: Protocol
    reference: Variant
    yardstick: Evidence

    def variant(self, folder: Path, precision: Precision) -> Variant:
        """Put a folder into the store as a variant."""
        return publish(folder, precision, self.checkpoint, self.settings)

    def examine(
        self,
        folder: Path,
        precision: Precision = Precision.INT8,
        *,
        protocol: Protocol | None = None,
    ) -> Evidence:
        """Compare a folder, as a variant of this precision, with the reference."""
        return examine_variant(
            self.checkpoint,
            self.reference,
            self.yardstick,
            self.variant(folder, precision),
            self.questions,
            protocol=protocol or self.protocol,
            settings=self.settings,
        )


def bench_of(
    source: Path,
    questions: Path | list[Question],
    folders: dict[str, Path],
    scratch: Path,
    protocol: Protocol,
) -> Bench:
    """Examine the reference of a checkpoint, so that variants can be compared with it."""
    checkpoint = admitted(source)
    settings = Settings(home=scratch / "home")
    asked = load_questions(questions) if isinstance(questions, Path) else questions
    reference = publish(folders["fp32"], Precision.FP32, checkpoint, settings)
    yardstick = examine_reference(
        checkpoint, reference, asked, protocol=protocol, settings=settings
    )
    return Bench(checkpoint, asked, settings, folders, scratch, protocol, reference, yardstick)
