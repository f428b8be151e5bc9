"""The Olive pass that drives the ONNX Runtime GenAI 0.18 model builder.

Olive 0.13.0, the newest, cannot: its own ModelBuilder pass imports a module that 0.15 removed and
calls `create_model` without the prepared options. Knows Olive's and the builder's calls; which
options make a good variant belongs to `recipes.py`. Runs in a child only.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import onnx
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.olive_pass import PassConfigParam

from tasks.core.graph import MODEL_FILE
from tasks.core.imports import collector_off
from tasks.core.progress import report_progress
from tasks.variants.builder_graph import BUILDER_VERSION
from tasks.variants.builder_options import key_value_arguments, require_known_options
from tasks.variants.genai_config import GenaiSettings, adjust_genai_config
from tasks.variants.tied_embedding import share_embedding

log = logging.getLogger(__name__)


def common_parameters() -> dict[str, PassConfigParam]:
    """Give the parameters that both of our passes take."""
    return {
        "genai_config": PassConfigParam(
            type_=dict[str, Any],
            required=True,
            description="context_length, eos_token_id and search of genai_config.json",
        ),
        "toolchain": PassConfigParam(
            type_=str, default_value="", description="versions; only to enter the cache key"
        ),
    }


class GenAIBuilder(Pass):  # type: ignore[misc]  # olive has no types
    """Build an ONNX Runtime GenAI folder from a Hugging Face checkpoint."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:  # noqa: ARG003  (Olive's signature)
        return {
            "precision": PassConfigParam(
                type_=str, required=True, description="int4, int8, fp16 or fp32"
            ),
            "builder_ep": PassConfigParam(
                type_=str, default_value="cpu", description="graph flavour: cpu or webgpu"
            ),
            "options": PassConfigParam(
                type_=dict[str, Any], default_value={}, description="builder extra options"
            ),
            **common_parameters(),
        }

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: AcceleratorSpec) -> bool:  # noqa: ARG004  (Olive's signature)
        """Tell Olive that the result depends on the accelerator."""
        return False

    def _run_for_config(
        self, model: HfModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler:
        settings = GenaiSettings.model_validate(config.genai_config)
        require_known_options(config.options)
        if own_pass_may_work():
            log.info("Olive's own ModelBuilder pass may drive this builder; ours is used")
        folder = Path(output_model_path)
        folder.mkdir(parents=True, exist_ok=True)
        report_progress(f"Olive: building the {config.precision.upper()} graph")
        _run_builder(model.model_name_or_path, folder, config)
        if share_embedding(folder):
            report_progress("the embedding now reads the language head's quantised rows")
        _drop_repository_stamp(folder / MODEL_FILE)
        adjust_genai_config(folder, settings)
        drop_load_arguments(folder / "tokenizer_config.json")
        return as_olive_model(model, folder)


def _run_builder(checkpoint: str, folder: Path, config: Any) -> None:
    with collector_off():
        from onnxruntime_genai.models import builder

    arguments = key_value_arguments(config.options)
    # The builder removes its cache folder when it is empty, and Olive's own pass hands it the
    # hub's: a private one keeps both away from what others use.
    with tempfile.TemporaryDirectory(prefix="builder-cache-") as cache:
        # A file in it keeps the builder from removing the folder under our feet.
        Path(cache, "in-use").touch()
        call = (checkpoint, checkpoint, str(folder), config.precision, config.builder_ep, cache)
        options = builder.parse_extra_options(*call, arguments)
        builder.create_model(*call, **options)


def _drop_repository_stamp(file: Path) -> None:
    model = onnx.load(str(file), load_external_data=False)
    model.producer_version = BUILDER_VERSION
    onnx.save(model, str(file))


def drop_load_arguments(tokenizer_config: Path) -> None:
    """Take out how the tokenizer was loaded, which transformers 5.23 writes down with the rest.

    It differs with HF_HUB_OFFLINE and would give the same tokenizer another digest.
    """
    content = json.loads(tokenizer_config.read_text(encoding="utf-8"))
    for key in ("is_local", "local_files_only", "name_or_path"):
        content.pop(key, None)
    tokenizer_config.write_text(
        json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )


def as_olive_model(source: HfModelHandler, folder: Path) -> ONNXModelHandler:
    """Describe a built folder to Olive, with all its files."""
    attributes = copy.deepcopy(source.model_attributes or {})
    weights = (MODEL_FILE, f"{MODEL_FILE}.data")
    attributes["additional_files"] = sorted(
        str(file) for file in folder.iterdir() if file.name not in weights
    )
    return ONNXModelHandler(
        os.fspath(folder), onnx_file_name=MODEL_FILE, model_attributes=attributes
    )


def own_pass_may_work() -> bool:
    """Tell whether Olive's own ModelBuilder pass was written for the installed builder.

    Judged by the two calls that broke in 0.13.0: the options prepared beforehand (olive-ai pull
    request 2601) and the module that loads quantised checkpoints (2665).
    """
    spec = importlib.util.find_spec("olive.passes.onnx.model_builder")
    if spec is None or spec.origin is None:
        return False
    source = Path(spec.origin).read_text(encoding="utf-8")
    asks_for_removed = (
        "onnxruntime_genai.models.quantized_model" in source
        and importlib.util.find_spec("onnxruntime_genai.models.quantized_model") is None
    )
    return "parse_extra_options" in source and not asks_for_removed
