"""The one adapter to ONNX Runtime GenAI: load a model folder, render, encode, generate, logits.

Always greedy, always with an explicit max_length; what the tokens mean is the callers' matter.
Runs in child processes only: the GIL is held through a whole forward pass.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime_genai as og
from numpy.typing import NDArray

from tasks.core.errors import VariantUnusable
from tasks.core.records import Message
from tasks.core.search_options import GREEDY
from tasks.examine.genai_folder import GenaiFolder, session_options
from tasks.examine.out_of_memory import lack_of_memory_named

Logits = NDArray[np.float32]

# Logits of 128 positions at a vocabulary of 152k are 78 MB. Appending a prompt in pieces gives
# the same bits as appending it whole (measured on 0.18, FP32, INT8 and INT4, CPU).
CHUNK_TOKENS = 128


@dataclass(frozen=True)
class Completion:
    """Greedy tokens after a prompt.

    Attributes:
        tokens: new tokens, with the end-of-sequence token if that is what ended them.
        stopped: ended by an end-of-sequence token, not by the limit.
    """

    tokens: list[int]
    stopped: bool


@dataclass(frozen=True)
class Guidance:
    """What constrained decoding lets a model say.

    Attributes:
        kind: language of the constraint.
        text: a JSON schema as JSON, or a pattern in the dialect of Rust's regex crate.
    """

    kind: Literal["json_schema", "regex"]
    text: str


class Engine:
    """One model folder, loaded.

    Args:
        folder: holds genai_config.json, the graph and the tokenizer.
        threads: intra-op threads; None keeps what the folder says.

    Every method that computes raises DoesNotFit where memory runs out.

    Raises:
        VariantUnusable: the folder cannot be loaded.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        og.disable_telemetry_events()
        with engine_words(f"cannot load {folder.name}"):
            config = og.Config(str(folder))
            config.overlay(session_options(threads))
            self._model = og.Model(config)
            self._tokenizer = og.Tokenizer(self._model)
        says = GenaiFolder.read(folder)
        self.eos_token_ids = says.eos_token_ids
        self.context_length = says.context_length
        self.vocabulary_size = says.vocabulary_size
        self._generator: Any = None
        self._capacity = 0
        self._turn = 0

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation with the folder's own chat template.

        Raises:
            VariantUnusable: there is no template, or it refuses the conversation.
        """
        turns = json.dumps([message.model_dump(mode="json") for message in messages])
        with engine_words("the chat template refused a conversation"):
            return str(
                self._tokenizer.apply_chat_template(
                    turns, add_generation_prompt=add_generation_prompt
                )
            )

    def encode(self, text: str) -> list[int]:
        """Tokenise a rendered text; special tokens in it are parsed, none is added."""
        with engine_words("the tokenizer refused a text"):
            return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text without the special ones."""
        with engine_words("the tokenizer refused tokens"):
            return str(self._tokenizer.decode(np.asarray(tokens, np.int32)))

    def guidance_problem(self, guidance: Guidance) -> str | None:
        """Give the engine's reason why it cannot constrain by this, or None where it can."""
        try:
            with engine_words("guidance refused"):
                self._new_generator(1, guidance)
        except VariantUnusable as problem:
            return problem.message
        return None

    def complete(
        self,
        prompt: Sequence[int],
        limit: int,
        *,
        chunk: int | None = None,
        afresh: bool = False,
        guidance: Guidance | None = None,
    ) -> Completion:
        """Generate greedily until an end-of-sequence token or the limit.

        Args:
            prompt: token ids, at least one.
            limit: new tokens at most; prompt and limit together must fit into the context.
            chunk: append the prompt in pieces of this many tokens.
            afresh: in a new generator, not in a rewound one.
            guidance: constrain the answer; always in a new generator, since that is where the
                constraint is set.

        Raises:
            VariantUnusable: the engine failed; the message has its words.
        """
        tokens: list[int] = []
        ends = set(self.eos_token_ids)
        with engine_words("decoding failed"):
            generator = self._begin(len(prompt) + limit, afresh=afresh, guidance=guidance)
            for piece in _pieces(prompt, chunk or max(1, len(prompt))):
                generator.append_tokens(piece)
            while len(tokens) < limit:
                generator.generate_next_token()
                # get_sequence() leaves the end-of-sequence token out; get_next_tokens() has it.
                tokens.append(int(generator.get_next_tokens()[0]))
                if tokens[-1] in ends:
                    return Completion(tokens, stopped=True)
        return Completion(tokens, stopped=False)

    def logits(self, tokens: Sequence[int], *, start: int = 0) -> Iterator[Logits]:
        """Give the logits after each token from `start` on, in blocks of positions.

        Take all blocks before anything else is asked of this engine.

        Args:
            tokens: the whole sequence, teacher-forced.
            start: first position whose logits are wanted; those before it are not copied.

        Yields:
            Blocks of shape (positions, vocabulary); together len(tokens) - start rows.

        Raises:
            VariantUnusable: the engine failed; the message has its words.
        """
        with engine_words("a forward pass failed"):
            generator = self._begin(len(tokens))
            turn, position = self._turn, 0
            for piece in _pieces(tokens, CHUNK_TOKENS):
                assert turn == self._turn, "another sequence was begun in between"
                wanted = max(0, start - position)
                position += len(piece)
                generator.append_tokens(piece)
                if wanted >= len(piece):
                    continue
                block = generator.get_output("logits")[0]
                if len(block) != len(piece):
                    # A pruned head gives the last row only: go through it token by token.
                    yield from self.stepwise_logits(tokens, start=start)
                    return
                yield block[wanted:].astype(np.float32)

    def stepwise_logits(self, tokens: Sequence[int], *, start: int = 0) -> Iterator[Logits]:
        """Give the same as `logits`, one forward pass a token from `start` on, as decoding does."""
        with engine_words("decoding failed"):
            generator = self._begin(len(tokens))
            turn = self._turn
            for piece in _pieces(tokens[:start], CHUNK_TOKENS):
                generator.append_tokens(piece)
            for token in tokens[start:]:
                assert turn == self._turn, "another sequence was begun in between"
                generator.append_tokens(np.asarray([token], np.int32))
                yield generator.get_logits()[0, :1].astype(np.float32)

    def _begin(self, length: int, *, afresh: bool = False, guidance: Guidance | None = None) -> Any:
        """Give an empty generator with room for `length` tokens.

        Making one allocates its KV cache; one that is rewound keeps it and gives the same bits
        (measured, and checked for every variant by `decode.repeat_mismatches`).
        """
        self._turn += 1
        if guidance is not None:
            return self._new_generator(length, guidance)
        if afresh or self._generator is None or length > self._capacity:
            self._capacity = min(1 << max(8, (length - 1).bit_length()), self.context_length)
            self._generator = self._new_generator(max(length, self._capacity))
        else:
            self._generator.rewind_to(0)
        return self._generator

    def _new_generator(self, length: int, guidance: Guidance | None = None) -> Any:
        # The KV cache is allocated for max_length, and search.max_length defaults to the whole
        # context: +767 MB on a 0.5B model.
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(**GREEDY, max_length=length)
        if guidance is not None:  # never with min_length: "compute_mask() called after stop"
            parameters.set_guidance(guidance.kind, guidance.text)
        return og.Generator(self._model, parameters)


def _pieces(tokens: Sequence[int], size: int) -> Iterator[NDArray[np.int32]]:
    ids = np.asarray(tokens, np.int32)
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


@contextmanager
def engine_words(doing: str) -> Iterator[None]:
    """Turn the engine's errors, which are bare RuntimeErrors, into ours.

    Raises:
        DoesNotFit: it ran out of memory, which says nothing about the variant.
        VariantUnusable: anything else.
    """
    try:
        with lack_of_memory_named(doing):
            yield
    except RuntimeError as problem:
        words = " ".join(str(problem).split())
        raise VariantUnusable(
            f"{doing}: {words[:500]}",
            next_step="build the variant again, with other options if it fails again",
        ) from problem
