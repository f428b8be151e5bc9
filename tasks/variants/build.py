"""Build one variant in a child process, prove in another that it decodes, publish it whole.

Runs in the flow's process and imports no heavy tool. What happens inside the children belongs to
`build_child.py` and `probe.py`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from tasks.core.checkpoint_files import require_unchanged
from tasks.core.child import Usage, run_child
from tasks.core.files import folder_bytes
from tasks.core.records import Checkpoint, Recipe, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.variants.build_records import BuildRequest, BuildResult, ProbeRequest, ProbeResult
from tasks.variants.builder_options import builder_options
from tasks.variants.genai_config import dropped_sampling
from tasks.variants.recipes import check_recipe, recipe_slug
from tasks.variants.toolchain import toolchain

log = logging.getLogger(__name__)

BUILD_TARGET = "tasks.variants.build_child:build"
PROBE_TARGET = "tasks.variants.probe:probe_variant"

# CPU time of the slowest step, quantising, by weight: 32 ns for rtn and the default, 530 ns for
# k_quant (0.5 B, 2026-11); ten times that for a machine that others use too.
_DEADLINE_BASE_S = 600.0
_DEADLINE_S_PER_WEIGHT = {"default": 4e-7, "rtn": 4e-7, "k_quant": 5e-6}

# FP16 weights become FP32 at load: 2.5 times the file was measured on x86 (ONNX Runtime 1.31).
_PROBE_BYTES_PER_FILE_BYTE = 3
_PROBE_BASE_BYTES = 2 * 1024**3


def build_variant(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    settings: Settings,
    memory_limit_bytes: int | None = None,
    say: Callable[[str], None] = log.debug,
) -> Variant:
    """Build a recipe of a checkpoint and publish it in the store.

    The FP32 recipe gives the reference. The same checkpoint, recipe and tools give the same bytes
    and so the same digest.

    Args:
        checkpoint: admitted; hashed again once it is built, as a trainer may still be writing it.
        recipe: what to build.
        settings: where the store and the logs are.
        memory_limit_bytes: resident memory at which the building child is stopped; the probing
            one has a bound of its own.
        say: told in one line what is going on.

    Raises:
        RecipeRefused: known not to build or load; nothing was started.
        VariantUnusable: built, but incomplete, not as asked, or it does not decode.
        ToolFailed: Olive or the builder failed.
        DoesNotFit: a child outgrew its memory bound, or the disk is full.
        TransientFault: a child was killed or ran past its deadline, or the checkpoint changed.
    """
    check_recipe(recipe, checkpoint)
    builder_options(recipe)
    if dropped := dropped_sampling(checkpoint):
        log.warning("%s is served without %s: the runtime has none", checkpoint.name, dropped)
    store = Store(settings.store)
    with store.staging() as staged:
        model_folder = staged / "model"
        children = _Children(checkpoint, recipe, settings, memory_limit_bytes, staged, say)
        built, usage = children.build(model_folder)
        say("checking that the checkpoint is still what was admitted")
        require_unchanged(checkpoint)
        children.probe(model_folder)
        size_bytes = folder_bytes(model_folder)
        digest = store.publish(model_folder)
    log.info(
        "built %s of %s: %.0f MB in %.1f s, peak %.0f MB",
        recipe_slug(recipe),
        checkpoint.name,
        size_bytes / 1e6,
        usage.seconds,
        usage.peak_rss_bytes / 1e6,
    )
    return Variant(
        checkpoint_digest=checkpoint.digest,
        recipe=recipe,
        digest=digest,
        toolchain=toolchain(),
        size_bytes=size_bytes,
        quantisation=built.quantisation,
        context_length=built.context_length,
        eos_token_ids=built.eos_token_ids,
        build_seconds=usage.seconds,
        build_cpu_s=usage.cpu_s,
        build_peak_rss_bytes=usage.peak_rss_bytes,
    )


class _Children:
    """The two children of one build: the same deadline, log and environment for both."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        recipe: Recipe,
        settings: Settings,
        memory_limit_bytes: int | None,
        staged: Path,
        say: Callable[[str], None],
    ) -> None:
        self._checkpoint = checkpoint
        self._recipe = recipe
        self._memory_limit_bytes = memory_limit_bytes
        self._work = staged / "work"
        self._say = say
        name = f"build-{recipe_slug(recipe)}-{checkpoint.digest[:12]}.log"
        self._log = settings.logs / name
        scratch = self._work / "tmp"
        scratch.mkdir(parents=True)
        self._environment = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // settings.workers)),
            # Temporary files die with the staging folder even when the child is killed.
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch)),
        }

    def build(self, model_folder: Path) -> tuple[BuildResult, Usage]:
        request = BuildRequest(
            checkpoint=self._checkpoint,
            recipe=self._recipe,
            model_folder=model_folder,
            work_folder=self._work,
        )
        return run_child(
            BUILD_TARGET,
            request,
            BuildResult,
            log=self._log,
            deadline_s=build_deadline_s(self._checkpoint, self._recipe),
            memory_limit_bytes=self._memory_limit_bytes,
            environment=self._environment,
            on_progress=self._say,
        )

    def probe(self, model_folder: Path) -> ProbeResult:
        result, _ = run_child(
            PROBE_TARGET,
            ProbeRequest(folder=model_folder),
            ProbeResult,
            log=self._log,
            deadline_s=build_deadline_s(self._checkpoint, self._recipe),
            memory_limit_bytes=probe_limit_bytes(model_folder, self._memory_limit_bytes),
            environment=self._environment,
            on_progress=self._say,
        )
        return result


def probe_limit_bytes(model_folder: Path, build_limit_bytes: int | None) -> int | None:
    """Give the bound of the probing child: at least the build's, and enough to load the model."""
    if build_limit_bytes is None:
        return None
    needed = _PROBE_BYTES_PER_FILE_BYTE * folder_bytes(model_folder) + _PROBE_BASE_BYTES
    return max(build_limit_bytes, needed)


def build_deadline_s(checkpoint: Checkpoint, recipe: Recipe) -> float:
    """Give the seconds after which a build is taken for hung."""
    per_weight = _DEADLINE_S_PER_WEIGHT[recipe.algorithm]
    return _DEADLINE_BASE_S + per_weight * checkpoint.parameters
