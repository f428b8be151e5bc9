"""The Olive pass that builds several variants of one checkpoint from one reading of its weights.

The graphs are the model builder's, the numbers to the bit those of ONNX Runtime's quantiser, but
the weights go from the mapped checkpoint to the variants' files in pieces. Knows Olive's calls;
what it does not cover `olive_pass.py` builds the plain way. Runs in a child only.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import CompositeModelHandler, HfModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.olive_pass import PassConfigParam

from tasks.core.errors import named
from tasks.core.progress import report_progress
from tasks.variants.build_records import REPORT_FILE, Failure, FanOutReport
from tasks.variants.builder_graph import GraphBuilder
from tasks.variants.builder_options import BuilderOptions, require_known_options
from tasks.variants.fast_graph import FastVariant, merged
from tasks.variants.genai_config import GenaiSettings, adjust_genai_config
from tasks.variants.olive_pass import as_olive_model, common_parameters, drop_load_arguments
from tasks.variants.weight_stream import MappedFiles, stream


class FastGenAIBuilder(Pass):  # type: ignore[misc]  # olive has no types
    """Build ONNX Runtime GenAI folders from a Hugging Face checkpoint, side by side.

    One variant is Olive's output model, as from any pass. Several are written to `folder`, each
    into one of its name, and Olive is given a composite model that says where; what failed is in
    the report that Olive's output folder gets.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:  # noqa: ARG003  (Olive's signature)
        return {
            "variants": PassConfigParam(
                type_=dict[str, Any],
                required=True,
                description="by name: precision, execution_provider and options of the builder",
            ),
            "folder": PassConfigParam(
                type_=str, default_value="", description="where several variants are written"
            ),
            **common_parameters(),
        }

    @staticmethod
    def is_accelerator_agnostic(accelerator_spec: AcceleratorSpec) -> bool:  # noqa: ARG004  (Olive's signature)
        """Tell Olive that the result depends on the accelerator."""
        return False

    def _run_for_config(
        self, model: HfModelHandler, config: Any, output_model_path: str
    ) -> ONNXModelHandler | CompositeModelHandler:
        settings = GenaiSettings.model_validate(config.genai_config)
        calls = {n: BuilderOptions.model_validate(c) for n, c in config.variants.items()}
        output = Path(output_model_path)
        output.mkdir(parents=True, exist_ok=True)
        fan_out = _FanOut(model.model_name_or_path, settings)
        if not config.folder:
            (call,) = calls.values()
            fan_out.add("", call, output)
            fan_out.write(keep_on=False)
            return as_olive_model(model, output)
        for name, call in calls.items():
            with fan_out.failing_alone(name):
                fan_out.add(name, call, Path(config.folder, name))
        fan_out.write(keep_on=True)
        report = FanOutReport(made=list(fan_out.variants), failures=fan_out.failures)
        (output / REPORT_FILE).write_text(report.model_dump_json(indent=1), encoding="utf-8")
        return _as_composite(model, output, Path(config.folder), report)


class _FanOut:
    """Variants that are built together; the fault of one is its own until data are written."""

    def __init__(self, checkpoint: str, settings: GenaiSettings) -> None:
        self.variants: dict[str, FastVariant] = {}
        self.failures: dict[str, Failure] = {}
        self._folders: dict[str, Path] = {}
        self._labels: list[str] = []
        self._checkpoint = Path(checkpoint)
        self._settings = settings
        self._graphs = GraphBuilder(checkpoint)

    @contextlib.contextmanager
    def failing_alone(self, name: str) -> Any:
        try:
            yield
        except Exception as problem:  # noqa: BLE001  (told to the parent, with its type)
            self._fail(name, problem)

    def add(self, name: str, call: BuilderOptions, folder: Path) -> None:
        """Make one variant's graph."""
        report_progress(f"Olive: building the {call.precision.upper()} graph")
        require_known_options(call.options)
        folder.mkdir(parents=True, exist_ok=True)
        built = self._graphs.build(folder, call)
        adjust_genai_config(folder, self._settings)
        drop_load_arguments(folder / "tokenizer_config.json")
        self.variants[name] = FastVariant(built, folder)
        self._labels.append(call.precision.upper())

    def write(self, *, keep_on: bool) -> None:
        """Read the checkpoint and write all data, then the graphs."""
        if not self.variants:
            return
        variants = list(self.variants.values())
        with contextlib.ExitStack() as files:
            for variant in variants:
                files.callback(variant.close)
                variant.open()
            stream(
                merged(reading for variant in variants for reading in variant.readings),
                threads=torch.get_num_threads(),
                done_with=MappedFiles(self._checkpoint).give_back,
                progress=_in_tenths(f"writing {', '.join(self._labels)}"),
            )
        for name, variant in list(self.variants.items()):
            if not keep_on:
                variant.save_graph()
                continue
            with self.failing_alone(name):
                variant.save_graph()

    def _fail(self, name: str, problem: Exception) -> None:
        self.variants.pop(name, None)
        known = named(problem)
        self.failures[name] = Failure(kind=type(known).__name__, fields=known.to_fields())


def _in_tenths(doing: str) -> Callable[[float], None]:
    said = -1

    def progress(part: float) -> None:
        nonlocal said
        if int(10 * part) > said:
            said = int(10 * part)
            report_progress(f"{doing}: {said * 10} %")

    return progress


def _as_composite(
    source: HfModelHandler, output: Path, folder: Path, report: FanOutReport
) -> CompositeModelHandler:
    components = [as_olive_model(source, folder / name) for name in report.made]
    attributes = copy.deepcopy(source.model_attributes or {})
    # Or Olive loads every component and saves it again, all in one folder (0.13.0).
    attributes["no_flatten"] = True
    return CompositeModelHandler(
        components, report.made, model_path=os.fspath(output), model_attributes=attributes
    )
