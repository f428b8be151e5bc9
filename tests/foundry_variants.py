"""A tiny built variant in a store, for the tests of Foundry Local.

Built by ONNX Runtime GenAI's own builder, so that these tests do not stand on Ingot's build step.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tasks.core.child import QUIET_ENVIRONMENT
from tasks.core.records import (
    Checkpoint,
    Expectation,
    Message,
    Precision,
    Quantisation,
    Question,
    Recipe,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import Store
from tests.tiny_models import write_tiny_checkpoint


@cache
def tiny_checkpoint() -> Path:
    """Give one tiny checkpoint folder; never written to by tests."""
    scratch = Path(tempfile.mkdtemp(prefix="ingot-test-"))
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return write_tiny_checkpoint(scratch / "checkpoint")


@cache
def tiny_folder() -> Path:
    """Give the INT4 model folder of that checkpoint; never written to by tests."""
    folder = tiny_checkpoint().with_name("int4")
    builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "none"]
    places = ["-i", str(tiny_checkpoint()), "-o", str(folder), "-c", str(folder.with_name("cache"))]
    subprocess.run(
        [*builder, *places, "-p", "int4", "-e", "cpu"],
        check=True,
        capture_output=True,
        env={**os.environ, **QUIET_ENVIRONMENT},
    )
    return folder


def publish(settings: Settings, edit: Callable[[Path], None] = lambda folder: None) -> Variant:
    """Put the tiny model folder into a store, after an edit of its own copy."""
    store = Store(settings.store)
    with store.staging() as staged:
        shutil.copytree(tiny_folder(), staged, dirs_exist_ok=True)
        edit(staged)
        digest = store.publish(staged)
    return variant_record(digest)


def variant_record(digest: str) -> Variant:
    """Give the record of a variant; only digest and precision matter here."""
    return Variant(
        checkpoint_digest="c" * 64,
        recipe=Recipe(precision=Precision.INT4),
        digest=digest,
        toolchain="test",
        size_bytes=1,
        quantisation=Quantisation(
            bits={4: 1}, block_sizes={32: 1}, symmetric=True, embedding_bits=32
        ),
        context_length=512,
        eos_token_ids=[2],
        build_seconds=1.0,
        build_cpu_s=1.0,
        build_peak_rss_bytes=1,
    )


def checkpoint_record(path: Path) -> Checkpoint:
    """Give the record of a checkpoint; only its path matters here."""
    return Checkpoint(
        name="tiny",
        path=path,
        digest="c" * 64,
        family="qwen2",
        architecture="Qwen2ForCausalLM",
        parameters=1,
        weight_dtype="float32",
        source_bytes=1,
        weight_files=["model.safetensors"],
        hidden_size=64,
        layers=2,
        attention_heads=4,
        kv_heads=2,
        head_size=16,
        vocabulary_size=600,
        context_length=512,
        tied_embeddings=False,
        eos_token_ids=[2],
        chat_template_file="chat_template.jinja",
        sampling={},
    )


def question(text: str = "hello", *, id: str = "q1", category: str = "chat") -> Question:  # noqa: A002
    """Give a question whose expectation every text meets."""
    return Question(
        id=id,
        category=category,
        messages=[Message(role="user", content=text)],
        expectation=Expectation(kind="regex", value="(?s).*"),
    )


def edited_config(**search: object) -> Callable[[Path], None]:
    """Give an edit of genai_config.json's search section: other bytes, the same answers."""

    def edit(folder: Path) -> None:
        file = folder / "genai_config.json"
        config = json.loads(file.read_text(encoding="utf-8"))
        config["search"].update(search)
        file.write_text(json.dumps(config), encoding="utf-8")

    return edit
