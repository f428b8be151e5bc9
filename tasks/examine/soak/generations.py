"""Generations as an application makes them: text encoded, a fresh generator each, words streamed.

The soak's adapter to ONNX Runtime GenAI; what memory does meanwhile is measured elsewhere.
"""

from __future__ import annotations

import json
import random
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from tasks.core.search_options import GREEDY
from tasks.examine.generation import engine_words
from tasks.examine.soak.loop import Seconds

_LONGEST_WORD = 6

# numpy 2.4 keeps the memory of up to seven arrays of each size below 1 KiB for later ones. The
# tokenizer's answers have all sizes: the live heap grew by 160 B a generation until all were kept.
_NUMPY_KEEPS_BYTES = 1024
_NUMPY_KEEPS = 8

OnGeneration = Callable[[int, Any], None]


class FreshGenerations:
    """A loaded model folder that answers each prompt with a new generator.

    Args:
        folder: holds genai_config.json, the graph and the tokenizer.
        seed: of the prompts.
        on_generation: told number and generator of each generation before the generator is
            released; how tests plant leaks.

    Raises:
        DoesNotFit: memory ran out.
        VariantUnusable: the folder cannot be loaded.
    """

    def __init__(
        self, folder: Path, *, seed: int, on_generation: OnGeneration | None = None
    ) -> None:
        og.disable_telemetry_events()
        with engine_words(f"cannot load {folder.name}"):
            config = og.Config(str(folder))
            # Spinning threads take the cores from what else runs now (see `generation.py`).
            spinning = {"session.intra_op.allow_spinning": "0"}
            config.overlay(json.dumps({"model": {"decoder": {"session_options": spinning}}}))
            self._model = og.Model(config)
            self._tokenizer = og.Tokenizer(self._model)
        model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        self.context_length: int = model["context_length"]
        self._random = random.Random(seed)  # noqa: S311  (prompts, not secrets)
        self._on_generation = on_generation
        _fill_numpys_cache()

    def generate(self, index: int, prompt_tokens: int, new_tokens: int) -> Seconds:
        """Generate once; gives wall and CPU seconds of decoding, after the first token.

        Raises:
            DoesNotFit: memory ran out.
            VariantUnusable: the engine failed; the message has its words.
        """
        with engine_words(f"generation {index} failed"):
            prompt = self._prompt(prompt_tokens)
            generator = self._generator(prompt_tokens + new_tokens)
            stream = self._tokenizer.create_stream()
            generator.append_tokens(prompt)
            _next_token(generator, stream)  # the prefill has made its logits
            started, cpu_started = time.perf_counter(), time.process_time()
            for _ in range(new_tokens - 1):
                _next_token(generator, stream)
            spent = time.perf_counter() - started, time.process_time() - cpu_started
            if self._on_generation is not None:
                self._on_generation(index, generator)
        return spent

    def _prompt(self, tokens: int) -> NDArray[np.int32]:
        """Draw words and encode them; a word has at least one token, so there are enough."""
        text = " ".join(self._word() for _ in range(tokens))
        return np.resize(np.asarray(self._tokenizer.encode(text), np.int32), tokens)

    def _generator(self, length: int) -> Any:
        # The KV cache is allocated for max_length, by default the whole context. min_length masks
        # the end-of-sequence token, so that every generation of one prompt length has equal work.
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(**GREEDY, max_length=length, min_length=length)
        return og.Generator(self._model, parameters)

    def _word(self) -> str:
        size = self._random.randint(1, _LONGEST_WORD)
        return "".join(self._random.choices(string.ascii_lowercase, k=size))


def _fill_numpys_cache() -> None:
    for size in range(1, _NUMPY_KEEPS_BYTES):
        arrays = [np.empty(size, np.int8) for _ in range(_NUMPY_KEEPS)]
        del arrays


def _next_token(generator: Any, stream: Any) -> None:
    generator.generate_next_token()
    stream.decode(int(generator.get_next_tokens()[0]))
