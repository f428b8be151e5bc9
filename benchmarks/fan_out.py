"""INT4, INT8 and FP16 of one checkpoint: Ingot, plain Olive runs, and llama.cpp.

Every lane starts from the same files, which are in memory, and ends with files on disk. Hashing and
scanning the checkpoint (admission) and the test that a variant loads are in no lane.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arithmetic import Figure, difference, ratio, rounded
from benchmarks.build_variants import Builder, recipes_for, require_builder
from benchmarks.checkpoints import checkpoint_of, record_of
from benchmarks.kept import Kept
from benchmarks.machine import GIB
from benchmarks.peers import F16, Q4_0, Q8_0, LlamaCpp, llama_cpp
from benchmarks.places import Work
from benchmarks.records import (
    VARIANTS,
    WITH_REFERENCE,
    Cost,
    Lane,
    Model,
    NotMeasured,
    Plan,
    Plot,
    Readings,
    Section,
    Table,
)
from benchmarks.runner import cost_of, python, run_rounds, warm
from tasks.core.files import folder_bytes
from tasks.core.records import Precision
from tasks.variants.olive_config import olive_config, package_config

FAST, PLAIN = "Ingot, all at once", "Ingot, one by one"
FAST_4 = f"{FAST}, with FP32"
OLIVE = "Olive, three runs"
LLAMA = "llama.cpp, three files"
_FILES = {F16: "fp16", Q8_0: "int8", Q4_0: "int4"}  # which of our variants each is held against

_INGOT = {
    FAST: (Builder.FAST, VARIANTS),
    FAST_4: (Builder.FAST, WITH_REFERENCE),
    PLAIN: (Builder.PLAIN, VARIANTS),
}


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Build with every lane, once a round."""
    model = checkpoint_of(plan.size, work)
    lanes = [
        *(_ingot_lane(name, *how, model, work, plan) for name, how in _INGOT.items()),
        _olive_lane(model, work, plan),
        _llama_lane(model, work, plan),
    ]
    run_rounds(lanes, plan, kept)


def build_cost(
    model: Model,
    builder: Builder,
    precisions: Sequence[Precision],
    work: Work,
    plan: Plan,
) -> Readings:
    """Build variants in a process of its own: its cost, and the size of each folder."""
    require_builder(builder)
    warm(model.folder)
    with work.scratch("build") as output:
        command = python(
            "benchmarks.build_variants",
            builder,
            model.record,
            output,
            *(p.value for p in precisions),
        )
        cost = cost_of(command, work, environment=threads_of(plan), watch=output)
        sizes = {precision.value: folder_bytes(output / precision) for precision in precisions}
    return {**cost.readings(), **_sizes(sizes, model)}


def threads_of(plan: Plan) -> dict[str, str]:
    """Bound the threads of whatever is built with OpenMP, torch among them."""
    return {"OMP_NUM_THREADS": str(plan.threads)}


def _ingot_lane(
    name: str,
    builder: Builder,
    precisions: Sequence[Precision],
    model: Model,
    work: Work,
    plan: Plan,
) -> Lane:
    return Lane(name, lambda _round: build_cost(model, builder, precisions, work, plan))


def _olive_lane(model: Model, work: Work, plan: Plan) -> Lane:
    def run(_round: int) -> Readings:
        warm(model.folder)
        sizes, costs = {}, []
        with work.scratch("olive") as output:
            for recipe in recipes_for(VARIANTS, Builder.PLAIN):
                # Each with a folder of its own, removed at the end as Ingot's are: a cache
                # that another run left would make the next one look fast.
                folder = output / recipe.precision
                folder.mkdir()
                config = olive_config(
                    record_of(model).path, recipe, output=folder / "model", cache=folder / "cache"
                )
                (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
                package = folder / "package-config.json"
                package.write_text(json.dumps(package_config()), encoding="utf-8")
                command = python(
                    *("olive", "run", "--config", folder / "config.json"),
                    *("--package-config", package),
                )
                costs.append(cost_of(command, work, environment=threads_of(plan), watch=output))
                sizes[recipe.precision.value] = _model_bytes(folder / "model")
                shutil.rmtree(folder / "cache")
        return {**_together(costs).readings(), **_sizes(sizes, model)}

    return Lane(OLIVE, run)


def _model_bytes(folder: Path) -> int:
    """Add up a model's files; Olive ends with code 0 when it has made none.

    Raises:
        NotMeasured: there is no model.
    """
    if not list(folder.rglob("model.onnx.data")):
        raise NotMeasured(f"Olive made no model for {folder.parent.name}")
    return folder_bytes(folder)


def _llama_lane(model: Model, work: Work, plan: Plan) -> Lane:
    def run(_round: int) -> Readings:
        peer = llama_cpp(work)
        warm(model.folder)
        with work.scratch("llama") as output:
            costs = [
                cost_of(command, work, environment=threads_of(plan), watch=output)
                for command in gguf_commands(peer, model, output, plan, (Q4_0, Q8_0))
            ]
            sizes = {
                ours: (output / f"{kind}.gguf").stat().st_size for kind, ours in _FILES.items()
            }
        return {**_together(costs).readings(), **_sizes(sizes, model)}

    return Lane(LLAMA, run)


def gguf_commands(
    peer: LlamaCpp, model: Model, output: Path, plan: Plan, kinds: Sequence[str]
) -> list[list[str]]:
    """Give the commands that make F16 and then each kind; a file is named after its kind."""
    whole = output / f"{F16}.gguf"
    return [
        peer.convert(model.folder, whole),
        *(peer.quantise(whole, output / f"{kind}.gguf", kind, plan.threads) for kind in kinds),
    ]


def _together(costs: Sequence[Cost]) -> Cost:
    total = costs[0]
    for cost in costs[1:]:
        total = total.then(cost)
    return total


def _sizes(sizes: dict[str, int], model: Model) -> Readings:
    source = record_of(model).source_bytes
    return {
        "source_bytes": float(source),
        **{f"size_{name}_over_source": size / source for name, size in sizes.items()},
    }


# ---------------------------------------------------------------- what it comes to


def figures(kept: Kept) -> dict[str, Figure]:
    """Give what has a target."""
    seconds = {name: kept.values(name, "seconds") for name in (FAST, OLIVE, LLAMA)}
    beyond = difference(
        kept.values(FAST, "peak_rss_bytes"),
        kept.values(FAST, "source_bytes"),
        kept.why_not(FAST),
    )
    return {
        "time_over_olive": ratio(seconds[FAST], seconds[OLIVE], kept.why_not(FAST, OLIVE)),
        "time_over_llama": ratio(seconds[FAST], seconds[LLAMA], kept.why_not(FAST, LLAMA)),
        "memory_beyond_gib": beyond.scaled(1 / GIB),
        **{
            f"size_{precision}": kept.figure(FAST, f"size_{precision}_over_source")
            for precision in VARIANTS
        },
    }


def tables(kept: Kept) -> list[Table]:
    """Show every lane, and its time as a part of Olive's."""
    names = (FAST, FAST_4, PLAIN, OLIVE, LLAMA)
    cost = Table(
        "Cost",
        ["lane", "wall s", "of Olive's", "CPU s", "peak RAM GiB", "peak disk GB"],
        [_cost_row(kept, name) for name in names],
        "Of Olive's: of three runs, also where FP32 is built too. Peak RAM: the largest process.",
    )
    sizes = Table(
        "Size over the bfloat16 source",
        ["lane", "4 bits", "8 bits", "16 bits"],
        [
            [
                name,
                *(
                    kept.figure(name, f"size_{precision}_over_source").in_words()
                    for precision in VARIANTS
                ),
            ]
            for name in (FAST, PLAIN, OLIVE, LLAMA)
        ],
        f"llama.cpp: {Q4_0}, {Q8_0}, {F16}. Ours: all files of the folder, tokenizer included.",
    )
    return [cost, sizes]


def _cost_row(kept: Kept, name: str) -> list[str]:
    part = ratio(kept.values(name, "seconds"), kept.values(OLIVE, "seconds"))
    return [
        name,
        kept.figure(name, "seconds").in_words(),
        part.in_words(),
        kept.figure(name, "cpu_s").in_words(),
        kept.figure(name, "peak_rss_bytes").scaled(1 / GIB).in_words(),
        rounded_middle(kept.figure(name, "peak_disk_bytes").scaled(1e-9)),
    ]


def rounded_middle(figure: Figure) -> str:
    """Show a figure without its spread, where there is next to none."""
    return figure.in_words() if figure.value is None else rounded(figure.value)


def plots(kept: Kept) -> list[Plot]:
    """Draw the wall times."""
    found = {name: kept.figure(name, "seconds").value for name in (FAST, PLAIN, OLIVE, LLAMA)}
    bars = {name: value for name, value in found.items() if value is not None}
    if not bars:
        return []
    return [
        Plot("fan-out", "Three variants of one checkpoint", "wall seconds", {"": bars}),
    ]


SECTION = Section(
    name="fan-out",
    title="Three variants of one checkpoint",
    about=(
        "INT4, INT8 and FP16 of one random checkpoint of Qwen2.5's shape: Ingot's builder, "
        "separate `olive run` processes with Ingot's pass, and llama.cpp (`convert_hf_to_gguf.py` "
        "to F16, then `llama-quantize` to Q4_0 and Q8_0). The files are in memory before each lane."
    ),
    settings=("size", "threads"),
    measure=measure,
    tables=tables,
    figures=figures,
    plots=plots,
)
