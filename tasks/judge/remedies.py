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


def _unusable(case: Case, gate: GateResult) -> bool:
    return bool(why_unusable(gate.measurement)) and not _unmeasurable(case, gate)


def _unmeasurable(_: Case, gate: GateResult) -> bool:
    return gate.measurement is not None and gate.measurement.final


def _of(*precisions: Precision) -> Callable[[Case, GateResult], bool]:
    return lambda case, _: case.variant.precision in precisions


def _mixes_no_int8(case: Case, _: GateResult) -> bool:
    recipe = case.variant.recipe
    return recipe.precision is Precision.INT4 and not (recipe.int8_head and recipe.int8_layers)


def _reference_is_below(case: Case, gate: GateResult) -> bool:
    reference = case.metrics.get("answers.right_reference")
    return reference is not None and reference.value is not None and reference.value < gate.limit


def _against_champion(_: Case, gate: GateResult) -> bool:
    return gate.gate.endswith("_to_champion")


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


_QUALITY = ("fidelity.*", "text.*", "answers.*", "guided.right*")

# Most particular first. Figures: Qwen2.5-0.5B, Olive 0.13 and GenAI 0.18, 2026-11.
REMEDIES = (
    Remedy(
        ("*",),
        "read in the report why it was not measured, and run the same command again: what was "
        "not measured is measured again, and never passes until it is",
        _unusable,
    ),
    Remedy(
        (*_QUALITY, "reference.*", "decode.*", "foundry.*"),
        "another run would not measure it, either: the reason, which the report gives, lies in the "
        "questions or the checkpoint; change those, or lower the gate's severity in a policy of "
        "your own",
        _unmeasurable,
    ),
    Remedy(
        ("reference.*",),
        "no recipe mends this: the conversion itself changed the model; check that the installed "
        "packages are the pinned ones, and report the family",
    ),
    Remedy(
        ("build.rotary_difference",),
        "the graph computes other positions than the reference: compare rope_theta and "
        "rope_scaling of config.json with what was built, and build again with the pinned packages",
    ),
    Remedy(
        ("build.rotary_rows_missing",),
        "context_length promises positions that the graph has no table for: lower it, or "
        "max_position_embeddings of config.json, and build again with the pinned packages",
    ),
    Remedy(
        ("build.*",),
        "do not ship it: the graph is not what its recipe says, or another variant's files lie in "
        "its place; delete its folder under store/objects and run the same command again",
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
        ("speed.*",),
        "the champion in place is faster on the same clock: compare the threads and options that "
        "the two were built with, or keep the champion",
        _against_champion,
    ),
    Remedy(
        ("*",),
        "the checkpoint or the recipe is further off than the champion in place: keep the "
        "champion, or build with the options that it was built with; raise the factor or margin "
        "only for a loss that you accept",
        _against_champion,
    ),
    Remedy(
        ("answers.right",),
        "train the checkpoint further, or set the limit to what you need: the reference itself "
        "is below it, so quantisation is not the cause",
        _reference_is_below,
    ),
    Remedy(
        ("answers.loops*",),
        "look at the answers that run in circles: if the reference's do too, train the checkpoint "
        "on answers that end; if not, rebuild INT4 with the profile quality, or ship INT8",
    ),
    Remedy(
        ("answers.wrong_script",),
        "a language head in 4 bits picks letters of another script first: rebuild INT4 with "
        "int8_head, or ship INT8",
    ),
    Remedy(
        ("lengths.latency_misfit",),
        "time jumps at some length: measure on an idle machine, and look at the times by length "
        "in the report; on a quiet machine it is a kernel that changes with the length",
    ),
    Remedy(
        ("lengths.*",),
        "compare rope_theta, rope_scaling and context_length of config.json with the checkpoint's "
        "training; if they are right, this variant is worse over long prompts: rebuild INT4 with "
        "the profile quality, ship a larger precision, or let the application keep prompts short",
    ),
    Remedy(
        ("guided.invalid",),
        "constrained decoding must not be able to fail: check that the schema needs no keyword "
        "that the grammar engine does not know, and that answers are not cut at their length "
        "limit; read what the examination noted",
    ),
    Remedy(
        ("baits.*",),
        "the variant leaves its path sooner than the reference where nobody taught it anything: "
        "read its answers in baits.parquet; a larger precision, or the profile quality for INT4, "
        "is closer to the reference",
    ),
    Remedy(
        ("edge.*",),
        "each case that failed is named in the report with what was expected; most need the "
        "pinned ONNX Runtime GenAI, the others a check before the engine is asked",
    ),
    Remedy(
        ("soak.heap_*", "soak.anon_*"),
        "a leak: confirm it with the full examination, whose soak is the longest, then look for "
        "what is kept for each request (generators, streams) and for the pinned ONNX Runtime "
        "GenAI; until then restart the service before the growth fills the device",
    ),
    Remedy(
        ("soak.decode_rate_ratio",),
        "it slows down under load: look at the clock and the temperature of the machine before "
        "looking at the model",
    ),
    Remedy(
        ("soak.*",),
        "threads or file handles are left behind by each request: use the pinned ONNX Runtime "
        "GenAI, and close what the application opens",
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
        ("foundry.edge_failures",),
        "each case that failed is named in the report with what Foundry Local did; keep such "
        "input away from it, or use the pinned version",
    ),
    Remedy(
        ("foundry.reload_growth_bytes",),
        "loading and unloading leaves memory behind: keep the model loaded, restart the service "
        "after so many reloads as the device can bear, and use the pinned Foundry Local",
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
        ("speed.aa_different",),
        "the same weights timed twice differ, so no absolute speed of this run counts "
        "and ratios to the champion are wider: run the same command again on an idle machine",
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
