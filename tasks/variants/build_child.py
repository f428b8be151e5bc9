"""Builds inside their child process: run Olive, collect what it made, read it back.

Neither Olive's exit code nor its cache is trusted: a run that pruned its only pass ends well and
writes nothing, and a truncated cache entry is delivered as it is (0.13.0, 2026-11). How the result
gets into the store belongs to `build.py`.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tasks.core.errors import IngotError, ToolFailed, VariantUnusable
from tasks.core.graph import MODEL_FILE, quantisation_of, read_graph, require_recipe
from tasks.core.progress import report_progress
from tasks.core.records import Checkpoint, Recipe
from tasks.variants.build_records import (
    REPORT_FILE,
    BuildRequest,
    BuildResult,
    Failure,
    FanOutReport,
    FanOutRequest,
    FanOutResult,
    NotCovered,
)
from tasks.variants.genai_config import GENAI_CONFIG, settings_for, verify_genai_config
from tasks.variants.lean_olive import import_olive, known_to_olive
from tasks.variants.olive_config import fan_out_config, olive_config, package_config
from tasks.variants.recipes import builder_way, check_recipe, recipe_slug

log = logging.getLogger(__name__)

DATA_FILE = f"{MODEL_FILE}.data"
TEMPLATE_FILE = "chat_template.jinja"
OLIVE_CONFIG = "olive_config.json"
OLIVE_PACKAGE_CONFIG = "olive_package_config.json"

_REQUIRED = (MODEL_FILE, DATA_FILE, GENAI_CONFIG, "tokenizer.json", "tokenizer_config.json")
_OPTIONAL = (
    TEMPLATE_FILE,
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.model",
    "vocab.json",
)


def build(request: BuildRequest) -> BuildResult:
    """Build one variant into `model_folder`, flat, with nothing in it that names this machine.

    The fast way where it covers the recipe, and the plain one where the pass finds that it does
    not.

    Raises:
        ToolFailed: Olive or the builder failed.
        VariantUnusable: what they made is incomplete or is not what the recipe asked for.
        RecipeRefused: left to the plain way, which is known not to build it.
    """
    way, why_plain = builder_way(request.recipe)
    if way == "plain":
        return _build_alone(request, request.recipe, why_plain)
    try:
        return _build_alone(request, request.recipe, "")
    except NotCovered as problem:
        log.warning("building the plain way: %s", problem)
        plain = request.recipe.model_copy(update={"builder": "plain"})
        check_recipe(plain, request.checkpoint)
        return _build_alone(request, plain, str(problem))


def _build_alone(request: BuildRequest, recipe: Recipe, why_plain: str) -> BuildResult:
    checkpoint, settings = request.checkpoint, settings_for(request.checkpoint)
    work = request.work_folder / recipe_slug(recipe)
    report_progress("starting Olive")
    run_olive(
        olive_config(
            checkpoint.path,
            recipe,
            output=work / "output",
            cache=work / "cache",
            settings=settings,
        ),
        checkpoint,
    )
    return _take_over(work / "output", request.model_folder, checkpoint, recipe, why_plain)


def build_together(request: FanOutRequest) -> FanOutResult:
    """Build several variants from one reading of the weights; each as it would be alone.

    A recipe that fails does not keep the others from being built.

    Raises:
        ToolFailed: Olive failed, or no recipe could be built.
    """
    written = request.work_folder / "models"
    output = request.work_folder / "output"
    report_progress("starting Olive")
    run_olive(
        fan_out_config(
            request.checkpoint.path,
            request.recipes,
            models=written,
            output=output,
            cache=request.work_folder / "cache",
            settings=settings_for(request.checkpoint),
        ),
        request.checkpoint,
    )
    report = FanOutReport.model_validate_json((output / REPORT_FILE).read_text(encoding="utf-8"))
    built: dict[str, BuildResult] = {}
    failures = dict(report.failures)
    for recipe in request.recipes:
        slug = recipe_slug(recipe)
        if slug in failures:
            continue
        try:
            source, target = written / slug, request.models / slug
            built[slug] = _take_over(source, target, request.checkpoint, recipe, "")
        except IngotError as problem:
            failures[slug] = Failure(kind=type(problem).__name__, fields=problem.to_fields())
    return FanOutResult(built=built, failures=failures)


def _take_over(
    output: Path, folder: Path, checkpoint: Checkpoint, recipe: Recipe, why_plain: str
) -> BuildResult:
    """Move what was built out of Olive's hands, and read back what it is."""
    report_progress("reading back what was built")
    collect_model(output, folder)
    require_one_template(folder)
    graph = read_graph(folder)
    require_recipe(graph, recipe)
    facts = verify_genai_config(folder, checkpoint)
    settings = settings_for(checkpoint)
    relative = olive_config("CHECKPOINT", recipe, output="OUTPUT", cache="CACHE", settings=settings)
    _write_json(folder / OLIVE_CONFIG, relative)
    _write_json(folder / OLIVE_PACKAGE_CONFIG, package_config())
    return BuildResult(
        quantisation=quantisation_of(graph),
        context_length=facts.context_length,
        eos_token_ids=facts.eos_token_ids,
        way="plain" if why_plain else "fast",
        why_plain=why_plain,
    )


def run_olive(config: dict[str, Any], checkpoint: Checkpoint | None = None) -> None:
    """Run one workflow with our pass.

    Args:
        config: of the workflow.
        checkpoint: whose bytes are known; Olive hashes the folder where it is None.

    Raises:
        ToolFailed: there is no output model; says what Olive logged.
        IngotError: whatever our pass raised from Ingot's tree.
        OSError: the disk is full, for one.
    """
    run = import_olive()
    known = known_to_olive(checkpoint) if checkpoint else nullcontext()
    with _logged_failures() as failures, known:
        outcome = run(copy.deepcopy(config), package_config=package_config())  # it takes keys out
    if outcome.has_output_model():
        return
    cause = failures[-1] if failures else None
    if isinstance(cause, (IngotError, OSError, MemoryError)):
        raise cause  # a full disk or memory is not the tool's fault
    raise ToolFailed(
        "Olive ended without a model",
        got=f"{type(cause).__name__}: {cause}" if cause else "no exception in its log",
        next_step="see the build's log",
    ) from cause


@contextmanager
def _logged_failures() -> Iterator[list[BaseException]]:
    """Collect the exceptions that Olive logs instead of raising."""
    failures: list[BaseException] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1]:
                failures.append(record.exc_info[1])

    collector = Collector(logging.WARNING)
    olive_log = logging.getLogger("olive")
    olive_log.addHandler(collector)
    try:
        yield failures
    finally:
        olive_log.removeHandler(collector)


def collect_model(output: Path, target: Path) -> None:
    """Move a model's files out of Olive's output folder into a new flat one.

    Only files that a runtime reads: Olive's model_config.json, for one, holds absolute paths.

    Raises:
        VariantUnusable: a file is missing or empty.
    """
    found = {file.name: file for file in sorted(output.rglob("*")) if file.is_file()}
    for name in _REQUIRED:
        if name not in found or found[name].stat().st_size == 0:
            raise VariantUnusable(
                f"Olive's output has no usable {name}",
                expected=", ".join(_REQUIRED),
                got=", ".join(sorted(found)) or "nothing",
            )
    target.mkdir()
    for name in (*_REQUIRED, *_OPTIONAL):
        if name in found:
            found[name].rename(target / name)


def require_one_template(folder: Path) -> None:
    """Make sure that the chat template is in exactly one place, as two may differ.

    Raises:
        VariantUnusable: it is in none or in two.
    """
    inline = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    places = [
        *([TEMPLATE_FILE] if (folder / TEMPLATE_FILE).is_file() else []),
        *(["tokenizer_config.json"] if inline.get("chat_template") else []),
    ]
    if len(places) != 1:
        raise VariantUnusable(
            "the built folder must have its chat template in exactly one place",
            got=" and ".join(places) or "none",
            next_step="give the checkpoint one chat_template.jinja",
        )


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(
        json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n"
    )
