"""ONNX Runtime GenAI's greedy answers on a model folder: what Foundry Local's must equal.

Runs in a child process only. Knows nothing of Foundry Local.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnxruntime_genai as og

from tasks.core.errors import VariantUnusable
from tasks.core.records import Message
from tasks.core.search_options import GREEDY


class GreedyModel:
    """A model folder, loaded by ONNX Runtime GenAI itself.

    Raises:
        VariantUnusable: the folder does not load.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._model = og.Model(str(folder))
            self._tokenizer = og.Tokenizer(self._model)
        except RuntimeError as problem:
            raise self._unusable(problem) from problem

    def answer(self, messages: Sequence[Message], *, max_tokens: int) -> str:
        """Answer a conversation greedily with at most `max_tokens` tokens.

        Raises:
            VariantUnusable: the template or the model refuses the conversation.
        """
        try:
            return self._answer(messages, max_tokens)
        except RuntimeError as problem:
            raise self._unusable(problem) from problem

    def _answer(self, messages: Sequence[Message], max_tokens: int) -> str:
        generator = self._generator(messages, max_tokens)
        # Decoded piece by piece, as Foundry Local does it: `Tokenizer.decode` of the whole answer
        # treats bytes that are not UTF-8 otherwise (measured, 0.18).
        stream = self._tokenizer.create_stream()
        pieces: list[str] = []
        while not generator.is_done():
            generator.generate_next_token()
            pieces.append(stream.decode(int(generator.get_next_tokens()[0])))
        return "".join(pieces)

    def _generator(self, messages: Sequence[Message], max_tokens: int) -> Any:
        prompt = self._tokenizer.apply_chat_template(
            json.dumps([message.model_dump() for message in messages]), add_generation_prompt=True
        )
        tokens = self._tokenizer.encode(prompt)
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(**GREEDY, max_length=len(tokens) + max_tokens)
        generator = og.Generator(self._model, parameters)
        generator.append_tokens(tokens)
        return generator

    def _unusable(self, problem: RuntimeError) -> VariantUnusable:
        return VariantUnusable(f"ONNX Runtime GenAI on {self._folder.name[:20]}: {problem}")
