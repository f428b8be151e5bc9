"""The first tokens of a built folder: it loads, its template renders, and it decodes.

Asks only whether numbers come out, and finite ones; whether they are right belongs to the
examination. Runs in a child of its own, so that the build's memory is gone and counted apart.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime_genai as og

from tasks.core.errors import VariantUnusable
from tasks.core.progress import report_progress
from tasks.core.search_options import GREEDY
from tasks.variants.build_records import ProbeRequest, ProbeResult

# FP16 graphs of the wrong flavour die at the second token, so prefill alone shows nothing.
NEW_TOKENS = 4
_MESSAGES = json.dumps([{"role": "user", "content": "Hello! What can you do for me?"}])


def probe_variant(request: ProbeRequest) -> ProbeResult:
    """Load the folder and generate a few greedy tokens.

    Raises:
        VariantUnusable: it does not load, render or decode, or a logit is not finite.
    """
    report_progress("loading it, first tokens")
    try:
        return _generate(request.folder)
    except RuntimeError as problem:
        raise VariantUnusable(
            f"ONNX Runtime GenAI cannot run the built model: {problem}",
            next_step="see the build's log",
        ) from problem


def _generate(folder: Path) -> ProbeResult:
    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    prompt = tokenizer.encode(
        tokenizer.apply_chat_template(messages=_MESSAGES, add_generation_prompt=True)
    )
    length = len(prompt) + NEW_TOKENS
    params = og.GeneratorParams(model)
    # The shortest length too: a random or overfitted model may want to end at once.
    params.set_search_options(**GREEDY, max_length=length, min_length=length)
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    tokens: list[int] = []
    for position in range(NEW_TOKENS):
        _require_finite(generator, position)
        generator.generate_next_token()
        tokens.append(int(generator.get_next_tokens()[0]))
    return ProbeResult(prompt_tokens=len(prompt), tokens=tokens)


def _require_finite(generator: og.Generator, position: int) -> None:
    logits = np.asarray(generator.get_logits(), dtype=np.float32)
    if not np.isfinite(logits).all():
        raise VariantUnusable(
            f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size} logits are not finite at"
            f" new token {position + 1}"
        )
