"""Build variants in a child process, prove in others that they decode, publish each whole.

Runs in the flow's process and imports no heavy tool. What happens inside the children belongs to
`build_child.py` and `probe.py`. Steps of one checkpoint take turns to build: the first builds for
all that are still to be built, and the others find theirs made (`built.py`).
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from tasks.core.budget import BASE_BYTES, loaded_bytes
from tasks.core.checkpoint_files import require_unchanged
from tasks.core.child import Usage, run_child
from tasks.core.child_process import are_stopping, stopped_from_outside
from tasks.core.errors import RecipeRefused, VariantUnusable
from tasks.core.files import folder_bytes
from tasks.core.locks import lock_file
from tasks.core.records import Checkpoint, Recipe, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import Store
from tasks.variants.build_records import (
    BuildRequest,
    BuildResult,
    FanOutRequest,
    FanOutResult,
    ProbeRequest,
    ProbeResult,
)
from tasks.variants.builder_options import builder_options
from tasks.variants.built import Built, Note
from tasks.variants.genai_config import dropped_sampling
from tasks.variants.recipes import builder_way, check_recipe, recipe_slug
from tasks.variants.toolchain import toolchain

log = logging.getLogger(__name__)

BUILD_TARGET = "tasks.variants.build_child:build"
FAN_OUT_TARGET = "tasks.variants.build_child:build_together"
BUILD_TARGETS = frozenset({BUILD_TARGET, FAN_OUT_TARGET})
PROBE_TARGET = "tasks.variants.probe:probe_variant"

# CPU time of the slowest step, quantising, by weight: 32 ns for rtn and the default, 530 ns for
# k_quant (0.5 B, 2026-11); ten times that for a machine that others use too.
_DEADLINE_BASE_S = 600.0
_DEADLINE_S_PER_WEIGHT = {"default": 4e-7, "rtn": 4e-7, "k_quant": 5e-6}

# FP16 weights become FP32 at load: 2.5 times the file was measured on x86 (ONNX Runtime 1.31).
_PROBE_BYTES_PER_FILE_BYTE = 3
_PROBE_BASE_BYTES = 2 * 1024**3

# A graph more in the same child, with its share of the pieces in work.
SIBLING_BYTES = 96 * 1024**2
TURN_POLL_S = 0.2

Say = Callable[[str], None]
Reserve = Callable[[int], AbstractContextManager[None]]


def _unreserved(_wanted_bytes: int) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def build_variant(
    checkpoint: Checkpoint,
    recipe: Recipe,
    *,
    settings: Settings,
    siblings: Sequence[Recipe] = (),
    forecast_bytes: int = 0,
    memory_limit_bytes: int | None = None,
    reserve: Reserve = _unreserved,
    say: Say = log.debug,
) -> Variant:
    """Build a recipe of a checkpoint, or take what a sibling's step built, and publish it.

    The FP32 recipe gives the reference. The same checkpoint, recipe and tools give the same bytes
    and so the same digest, whatever else the same child builds.

    Args:
        checkpoint: admitted; hashed again once it is built, as a trainer may still be writing it.
        recipe: what to build.
        settings: where the store and the logs are.
        siblings: recipes whose own steps run on this machine too: where the fast way builds them,
            whoever comes first builds those that are not made yet.
        forecast_bytes: memory to reserve for building this recipe alone.
        memory_limit_bytes: resident memory at which the building child is stopped, building it
            alone; the probing one has a bound of its own.
        reserve: holds memory while a child runs; not while another step's build is waited for.
        say: told in one line what is going on.

    Raises:
        RecipeRefused: known not to build or load; nothing was started.
        VariantUnusable: built, but incomplete, not as asked, or it does not decode.
        ToolFailed: Olive or the builder failed.
        DoesNotFit: a child outgrew its memory bound, or the disk is full.
        CheckpointRefused: the checkpoint changed meanwhile.
        TransientFault: a child was killed or ran past its deadline.
        EnvironmentUnfit: stopped from outside.
    """
    check_recipe(recipe, checkpoint)
    builder_options(recipe)
    if dropped := dropped_sampling(checkpoint):
        log.warning("%s is served without %s: the runtime has none", checkpoint.name, dropped)
    store = store_of(settings)
    built = Built(settings, store, checkpoint)
    children = _Children(checkpoint, settings, store, memory_limit_bytes, say)
    with contextlib.ExitStack() as turn:
        if builder_way(recipe)[0] == "fast":
            turn.enter_context(_turn(checkpoint, settings, say))
        note = built.find(recipe)
        if note is None:
            built.clear_abandoned()
            together = [recipe, *_to_be_made(siblings, recipe, checkpoint, built)]
            with reserve(forecast_bytes + SIBLING_BYTES * (len(together) - 1)):
                note = children.build(recipe, together, built)
    model = built.model(recipe, note)
    size_bytes = folder_bytes(model)
    with reserve(loaded_bytes(recipe.precision, size_bytes) + BASE_BYTES):
        try:
            children.probe(recipe, model)
        except VariantUnusable:
            built.forget(recipe)
            raise
    digest = built.publish(recipe, note)
    log.info(
        "built %s of %s: %.0f MB in %.1f s, peak %.0f MB, %s",
        recipe_slug(recipe),
        checkpoint.name,
        size_bytes / 1e6,
        note.seconds,
        note.peak_rss_bytes / 1e6,
        f"the plain way: {note.built.why_plain}"
        if note.built.why_plain
        else f"with {', '.join(note.built_with)}",
    )
    return Variant(
        checkpoint_digest=checkpoint.digest,
        recipe=recipe,
        digest=digest,
        toolchain=toolchain(),
        size_bytes=size_bytes,
        quantisation=note.built.quantisation,
        context_length=note.built.context_length,
        eos_token_ids=note.built.eos_token_ids,
        build_seconds=note.seconds,
        build_cpu_s=note.cpu_s,
        build_peak_rss_bytes=note.peak_rss_bytes,
        built_with=note.built_with,
        way=note.built.way,
        why_plain=note.built.why_plain,
    )


def _to_be_made(
    siblings: Sequence[Recipe], recipe: Recipe, checkpoint: Checkpoint, built: Built
) -> Iterator[Recipe]:
    """Give the siblings that the fast way builds and nobody has built; refusals are their own."""
    for sibling in siblings:
        if sibling == recipe or builder_way(sibling)[0] != "fast":
            continue
        with contextlib.suppress(RecipeRefused):
            check_recipe(sibling, checkpoint)
            if built.find(sibling) is None:
                yield sibling


@contextmanager
def _turn(checkpoint: Checkpoint, settings: Settings, say: Say) -> Iterator[None]:
    """Wait until no other step builds of this checkpoint; the kernel frees what a dead one held.

    Raises:
        EnvironmentUnfit: stopped from outside meanwhile.
    """
    settings.locks.mkdir(parents=True, exist_ok=True)
    key = f"build {checkpoint.digest} {toolchain()}"
    lock = FileLock(lock_file(settings.locks, key), thread_local=False)
    has_said = False
    while True:
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=TURN_POLL_S)
            break
        if are_stopping():
            raise stopped_from_outside(f"building of {checkpoint.name}")
        if not has_said:
            say("waiting for what is built together with it")
            has_said = True
    try:
        yield
    finally:
        lock.release()


class _Children:
    """The children of one step: the same deadline, log and environment for all."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        settings: Settings,
        store: Store,
        memory_limit_bytes: int | None,
        say: Say,
    ) -> None:
        self._checkpoint = checkpoint
        self._settings = settings
        self._store = store
        self._memory_limit_bytes = memory_limit_bytes
        self._say = say

    def build(self, recipe: Recipe, together: list[Recipe], built: Built) -> Note:
        """Build recipes in one child and keep them all; gives the note of the first.

        One that the others' child could not build is built alone, for its own error.
        """
        if len(together) > 1:
            self._build_together(recipe, together, built)
            if (note := built.find(recipe)) is not None:
                return note
        with self._scratch() as (work, environment):
            request = BuildRequest(
                checkpoint=self._checkpoint,
                recipe=recipe,
                model_folder=work / "alone",
                work_folder=work,
            )
            result, usage = run_child(
                BUILD_TARGET,
                request,
                BuildResult,
                log=self._log(recipe),
                deadline_s=build_deadline_s(self._checkpoint, recipe),
                memory_limit_bytes=self._memory_limit_bytes,
                environment=environment,
                on_progress=self._say,
            )
            self._require_unchanged()
            note = Note.of(result, [recipe.precision], usage)
            built.keep(recipe, note, request.model_folder)
        return note

    def _build_together(self, recipe: Recipe, together: list[Recipe], built: Built) -> None:
        with self._scratch() as (work, environment):
            result, usage = self._run_fan_out(recipe, together, work, environment)
            self._require_unchanged()
            made = {slug: r for r in together if (slug := recipe_slug(r)) in result.built}
            for slug, failure in result.failures.items():
                log.warning("%s was not built with the others: %s", slug, failure.fields)
            for slug, one in made.items():
                with_it = [other.precision for other in made.values()]
                built.keep(one, Note.of(result.built[slug], with_it, usage), work / "built" / slug)

    def _run_fan_out(
        self, recipe: Recipe, together: list[Recipe], work: Path, environment: dict[str, str]
    ) -> tuple[FanOutResult, Usage]:
        models = work / "built"
        models.mkdir()
        alone = self._memory_limit_bytes
        limit = None if alone is None else alone + SIBLING_BYTES * (len(together) - 1)
        deadlines = [build_deadline_s(self._checkpoint, one) for one in together]
        return run_child(
            FAN_OUT_TARGET,
            FanOutRequest(
                checkpoint=self._checkpoint, recipes=together, models=models, work_folder=work
            ),
            FanOutResult,
            log=self._log(recipe),
            deadline_s=sum(deadlines),
            memory_limit_bytes=limit,
            # Nobody of this checkpoint builds beside it, so that it has all cores.
            environment={**environment, "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
            on_progress=self._say,
        )

    def probe(self, recipe: Recipe, model: Path) -> ProbeResult:
        """Load a model and let it answer, in a child of its own."""
        with self._scratch() as (_, environment):
            result, _ = run_child(
                PROBE_TARGET,
                ProbeRequest(folder=model),
                ProbeResult,
                log=self._log(recipe),
                deadline_s=build_deadline_s(self._checkpoint, recipe),
                memory_limit_bytes=probe_limit_bytes(model, self._memory_limit_bytes),
                environment=environment,
                on_progress=self._say,
            )
        return result

    def _require_unchanged(self) -> None:
        self._say("checking that the checkpoint is still what was admitted")
        require_unchanged(self._checkpoint)

    def _log(self, recipe: Recipe) -> Path:
        name = f"build-{recipe_slug(recipe)}-{self._checkpoint.digest[:12]}.log"
        return self._settings.logs / name

    @contextmanager
    def _scratch(self) -> Iterator[tuple[Path, dict[str, str]]]:
        """Give a folder for one child, and its environment."""
        with self._store.staging() as staged:
            scratch = staged / "tmp"
            scratch.mkdir()
            threads = max(1, (os.cpu_count() or 1) // self._settings.workers)
            yield (
                staged,
                {
                    "OMP_NUM_THREADS": str(threads),
                    # Temporary files die with the staging folder even when the child is killed.
                    **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch)),
                },
            )


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
