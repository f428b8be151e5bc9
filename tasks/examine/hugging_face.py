"""The one adapter to transformers: the checkpoint's own tokenizer, template and logits.

What Hugging Face gives is the truth here; how far a variant is from it is the callers' matter.
Runs in child processes only: importing transformers takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.exceptions import TemplateError
from numpy.typing import NDArray
from transformers import AutoTokenizer

from tasks.core.imports import collector_off
from tasks.core.records import Message
from tasks.examine.out_of_memory import lack_of_memory_named
from tasks.examine.template import TemplateRefusal


class CheckpointTokenizer:
    """Tokenizer and chat template of a checkpoint folder, as transformers understands them."""

    def __init__(self, checkpoint: Path) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
        # Not all_special_ids alone: a template's own tokens may be added tokens without a role.
        added = self._tokenizer.added_tokens_decoder.items()
        marked = {token for token, content in added if content.special}
        self.special_token_ids = frozenset({*self._tokenizer.all_special_ids, *marked})

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Render a conversation.

        Raises:
            TemplateRefusal: the template raised an exception of its own.
        """
        turns = [message.model_dump(mode="json") for message in messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, tokenize=False, add_generation_prompt=add_generation_prompt
                )
            )
        except TemplateError as problem:
            raise TemplateRefusal(f"the chat template says: {problem}") from problem

    def encode(self, text: str) -> list[int]:
        """Tokenise a rendered text; special tokens in it are parsed, none is added."""
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Give the token ids that ask for the next assistant turn."""
        return self.encode(self.render(messages))

    def end_of_turn(self) -> int | None:
        """Give the token that ends an assistant turn in the template, or None if none does."""
        marker = "ingot"
        turns = [Message(role="user", content="Hello"), Message(role="assistant", content=marker)]
        rendered = self.render(turns, add_generation_prompt=False)
        tail = self.encode(rendered[rendered.rindex(marker) + len(marker) :])
        return next((token for token in tail if token in self.special_token_ids), None)


def hugging_face_logits(
    checkpoint: Path, sequences: Iterable[tuple[Sequence[int], int]]
) -> Iterator[NDArray[np.float32]]:
    """Give the FP32 logits of the checkpoint itself for teacher-forced sequences, one at a time.

    The model is loaded when the first are asked for and released after the last.

    Args:
        checkpoint: Hugging Face folder.
        sequences: token ids, and the first position whose logits are wanted.

    Yields:
        For each sequence an array of shape (positions, vocabulary) that owns its memory: 64
        answers of 64 tokens are 2.5 GB at a vocabulary of 152k, and a slice of the whole
        prompt's logits would keep those of the prompt too.

    Raises:
        DoesNotFit: memory ran out.
    """
    with collector_off():
        import torch
        from transformers import AutoModelForCausalLM

    with lack_of_memory_named("cannot load the checkpoint with transformers"):
        model: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
    model.eval()
    for tokens, start in sequences:
        wanted = len(tokens) - start
        # Not around the loop: the mode would hold for whoever consumes what is yielded.
        with torch.inference_mode(), lack_of_memory_named("a pass of transformers failed"):
            asked = torch.tensor([list(tokens)])
            found = model(asked, use_cache=False, logits_to_keep=wanted).logits
            logits: NDArray[np.float32] = found[0, -wanted:].numpy().copy()
            del found
        yield logits
