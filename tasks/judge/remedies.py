"""What to try when a gate did not pass: a table, most particular first; the first match counts.

A new remedy is a new row. Nothing here decides whether a gate passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from tasks.core.records import GateResult, Precision
from tasks.judge.case import Case, why_unusable


def _always(_: Case, __: GateResult) -> bool:
    return True


def _unusable(_: Case, gate: GateResult) -> bool:
    return bool(why_unusable(gate.measurement))


def _of(*precisions: Precision) -> Callable[[Case, GateResult], bool]:
    return lambda case, _: case.variant.precision in precisions


def _mixes_no_int8(case: Case, _: GateResult) -> bool:
    recipe = case.variant.recipe
    return recipe.precision is Precision.INT4 and not (recipe.int8_head and recipe.int8_layers)


def _reference_is_below(case: Case, gate: GateResult) -> bool:
    reference = case.metrics.get("answers.right_reference")
    return reference is not None and reference.value is not None and reference.value < gate.limit


def _lacks_eos(case: Case, _: GateResult) -> bool:
    missing = case.metrics.get("template.eos_missing")
    return missing is None or missing.value != 0


@dataclass(frozen=True)
class Remedy:
    """What to try when gates on certain metrics did not pass.

    Attributes:
        metrics: names or globs.
        text: an instruction, lower case, without a full stop.
        applies: whether it can help this variant.
    """

    metrics: tuple[str, ...]
    text: str
    applies: Callable[[Case, GateResult], bool] = _always


_QUALITY = (
    "fidelity.*", "answers.right", "answers.delta", "answers.recovery", "answers.flip_rate",
    "answers.format_*", "answers.stopped*", "answers.empty",
)  # fmt: skip

# Most particular first. Figures: Qwen2.5-0.5B, Olive 0.13 and GenAI 0.18, 2026-11.
REMEDIES = (
    Remedy(
        ("*",),
        "read in the report why it was not measured, and run the same command again: what was "
        "not measured is measured again, and never passes until it is",
        _unusable,
    ),
    Remedy(
        ("reference.*",),
        "no recipe mends this: the conversion itself changed the model; check that the installed "
        "packages are the pinned ones, and report the family",
    ),
    Remedy(
        ("template.text_mismatches",),
        "rewrite the chat template with trims ({%- ... -%}): transformers drops the line break "
        "after a block tag, ONNX Runtime GenAI keeps it",
    ),
    Remedy(
        ("template.token_mismatches",),
        "compare tokenizer.json of checkpoint and variant; text with decomposed accents must be "
        "normalised (NFC) before it is asked, ONNX Runtime GenAI does not do it",
    ),
    Remedy(
        ("template.eos_missing", "answers.stopped*"),
        "add the template's end-of-turn token to eos_token_id in generation_config.json",
        lambda case, gate: gate.metric == "template.eos_missing" or _lacks_eos(case, gate),
    ),
    Remedy(("template.conversations",), "give a question file with at least one question"),
    Remedy(
        ("decode.*",),
        "do not ship it: prefill and decode disagree; rebuild with the pinned packages, and "
        "read what the examination noted",
    ),
    Remedy(
        ("answers.right",),
        "train the checkpoint further, or set the limit to what you need: the reference itself "
        "is below it, so quantisation is not the cause",
        _reference_is_below,
    ),
    Remedy(
        _QUALITY,
        "rebuild with the profile quality: language head and sensitive layers in INT8 "
        "(divergence 0.022 to 0.005-0.007 on a 0.5B model, about 100 MB more)",
        _mixes_no_int8,
    ),
    Remedy(
        _QUALITY,
        "the profile quality is not enough for this checkpoint: try block_size 16 or the "
        "algorithm k_quant, or ship INT8",
        _of(Precision.INT4),
    ),
    Remedy(
        _QUALITY,
        "try accuracy_level 1 (FP32 activations, slower; a quarter of the divergence on a 0.5B "
        "model), or ship FP16",
        _of(Precision.INT8),
    ),
    Remedy(
        _QUALITY,
        "FP16 is all but lossless on sound weights: look for values beyond 65,504 in weights "
        "or activations",
        _of(Precision.FP16),
    ),
    Remedy(
        ("size.*",),
        "try the profile small (block_size 128), or drop unneeded files from the checkpoint; "
        "for very small models tokenizer and graph outweigh the weights",
        _of(Precision.INT4),
    ),
    Remedy(
        ("size.*",),
        "ship INT4 if it passes; an untied embedding stays FP32 in this build and outweighs "
        "what is saved",
    ),
    Remedy(
        ("foundry.token_mismatches",),
        "keep the chat template in one place: Foundry Local prefers the one in "
        "tokenizer_config.json over chat_template.jinja",
    ),
    Remedy(
        ("foundry.*",),
        "read what the examination noted; Foundry Local must run the pinned "
        "ONNX Runtime GenAI and be asked with temperature 0",
    ),
    Remedy(
        ("memory.*",),
        "lower the context length: Foundry Local reserves the cache for all of it; or ship a "
        "smaller precision",
    ),
    Remedy(
        ("speed.*",),
        "measure on an idle machine of the kind that will run it, and sweep the thread count; or "
        "ship a smaller precision",
    ),
    Remedy(("*",), "look at the raw rows in the report's frames"),
)


def remedy_for(case: Case, gate: GateResult) -> str:
    """Give the first remedy that fits the metric and can help the variant."""
    return next(
        remedy.text
        for remedy in REMEDIES
        if any(fnmatchcase(gate.metric, glob) for glob in remedy.metrics)
        and remedy.applies(case, gate)
    )
