"""Build variants of an admitted checkpoint into plain folders: what the fan-out is measured by.

`python -m benchmarks.build_variants BUILDER RECORD OUTPUT PRECISION... [--block-size N]`; a variant
is in OUTPUT/PRECISION afterwards. Builds as a release does, in child processes, without the store
and without the load test that follows there. A builder is a row of `_BUILDERS` and nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from benchmarks.records import NotMeasured
from tasks.core.child import run_child
from tasks.core.records import Checkpoint, Precision, Recipe
from tasks.variants.build import BUILD_TARGET, FAN_OUT_TARGET, build_deadline_s
from tasks.variants.build_records import BuildRequest, BuildResult, FanOutRequest, FanOutResult
from tasks.variants.recipes import REFERENCE, plan_recipes, recipe_slug


class Builder(StrEnum):
    """How variants are built."""

    FAST = "fast"
    PLAIN = "plain"


def recipes_for(
    precisions: Sequence[Precision], builder: Builder, block_size: int | None = None
) -> list[Recipe]:
    """Give the recipe of each precision as a release has it by default, for a builder.

    Args:
        precisions: FP32 is the reference's.
        builder: fast or plain.
        block_size: weights that share a scale, instead of the default.

    Raises:
        NotMeasured: the builder is not in this checkout.
    """
    require_builder(builder)
    shipped = [precision for precision in precisions if precision is not Precision.FP32]
    reference = [REFERENCE] if Precision.FP32 in precisions else []
    recipes = [*(plan_recipes(shipped) if shipped else []), *reference]
    own = {"builder": builder.value} | ({"block_size": block_size} if block_size else {})
    return [recipe.model_copy(update=own) for recipe in recipes]


def build_plainly(checkpoint: Checkpoint, recipes: Sequence[Recipe], output: Path) -> None:
    """Build one after the other, each with a run of Olive of its own."""
    for recipe in recipes:
        work = output / f"work-{recipe.precision}"
        work.mkdir()
        run_child(
            BUILD_TARGET,
            BuildRequest(
                checkpoint=checkpoint,
                recipe=recipe,
                model_folder=output / recipe.precision,
                work_folder=work,
            ),
            BuildResult,
            log=output / f"{recipe.precision}.log",
            deadline_s=build_deadline_s(checkpoint, recipe),
        )
        shutil.rmtree(work)


def build_at_once(checkpoint: Checkpoint, recipes: Sequence[Recipe], output: Path) -> None:
    """Build all in one child from one read of the weights.

    Raises:
        NotMeasured: one of them was not built; what the others cost says nothing then.
    """
    work, models = output / "work", output / "models"
    work.mkdir()
    models.mkdir()
    result, _ = run_child(
        FAN_OUT_TARGET,
        FanOutRequest(
            checkpoint=checkpoint, recipes=list(recipes), models=models, work_folder=work
        ),
        FanOutResult,
        log=output / "all.log",
        deadline_s=sum(build_deadline_s(checkpoint, recipe) for recipe in recipes),
    )
    for slug, failure in result.failures.items():
        raise NotMeasured(f"{slug} was not built with the others: {failure.fields}")
    for recipe in recipes:
        (models / recipe_slug(recipe)).rename(output / recipe.precision)
    shutil.rmtree(work)


_BUILDERS: dict[Builder, Callable[[Checkpoint, Sequence[Recipe], Path], None]] = {
    Builder.FAST: build_at_once,
    Builder.PLAIN: build_plainly,
}


def require_builder(builder: Builder) -> None:
    """See that a builder is there.

    Raises:
        NotMeasured: it is not in this checkout.
    """
    if builder not in _BUILDERS:
        raise NotMeasured(f"there is no {builder} builder in this checkout")


def newest_builder() -> Builder:
    """Give the fast builder where there is one, else the plain one."""
    return Builder.FAST if Builder.FAST in _BUILDERS else Builder.PLAIN


def main() -> int:
    """Build what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("builder", type=Builder)
    parser.add_argument("record", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("precision", type=Precision, nargs="+")
    parser.add_argument("--block-size", type=int)
    asked = parser.parse_args()
    checkpoint = Checkpoint.model_validate_json(asked.record.read_text(encoding="utf-8"))
    asked.output.mkdir(parents=True, exist_ok=True)
    recipes = recipes_for(asked.precision, asked.builder, asked.block_size)
    _BUILDERS[asked.builder](checkpoint, recipes, asked.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
