"""Talk with a registered model, in this process: what `ingot chat` does with a champion.

Which model that is, and how a conversation looks on a terminal, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tasks.core.errors import InputError
from tasks.core.records import Message
from tasks.core.settings import Settings
from tasks.foundry.runtime import LoadedModel, foundry_runtime


@contextmanager
def open_chat(settings: Settings, model_id: str) -> Iterator[Chat]:
    """Load a model of the production index for as long as the block runs.

    Raises:
        InputError: it is not registered; the message names those that are.
        VariantUnusable: its folder does not load.
    """
    with (
        foundry_runtime(settings.foundry, settings.logs / "foundry") as runtime,
        runtime.loaded(model_id) as model,
    ):
        yield Chat(model)


class Chat:
    """A loaded model that answers conversations; it remembers none of them."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def ask(
        self, messages: Sequence[Message], *, max_tokens: int, temperature: float = 0.0
    ) -> Iterator[str]:
        """Answer a conversation, piece by piece.

        Args:
            messages: the whole conversation, the user's message last.
            max_tokens: fewer when the context ends before.
            temperature: 0 is greedy.

        Raises:
            InputError: the conversation fills the context, or the runtime refuses it.
        """
        room = self._model.token_room(messages)
        if room < 1:
            raise InputError(
                "the conversation is longer than the model's context",
                got=f"{-room} tokens too many, and none left for the answer",
                next_step="start a new conversation",
            )
        yield from self._model.stream(
            messages, max_tokens=min(max_tokens, room), temperature=temperature
        )
