"""ONNX Runtime GenAI as an application meets it: nothing is checked before it reaches the engine.

The examined thing itself; which behaviour is right is the cases' matter. Light, because the worker
that loads damaged folders uses it too, and imported in child processes only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og

from tasks.core.search_options import GREEDY
from tasks.examine.genai_folder import GenaiFolder, session_options

_RANKED = 8
_EVENTS = 64
_MOST_TURNS_OF_THE_ENGINE = 10_000  # a batch that never ends is a finding, not a hanging suite


class RawSession:
    """One generator: a sequence and its key-value cache."""

    def __init__(self, model: Any, max_length: int, search: dict[str, Any]) -> None:
        parameters = og.GeneratorParams(model)
        parameters.set_search_options(max_length=max_length, **GREEDY | search)
        self._generator = og.Generator(model, parameters)

    def append(self, tokens: Sequence[int]) -> None:
        """Add tokens to the sequence; runs the forward pass."""
        self._generator.append_tokens(np.asarray(tokens, np.int32))

    def next(self) -> int:
        """Generate one token; an end-of-sequence token is given too."""
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])

    def force_next(self, token: int) -> int:
        """Generate one token, and make it this one: a random model never says it by itself."""
        logits = np.full(self._generator.get_logits().shape, -100, np.float32)
        logits[..., token] = 100
        self._generator.set_logits(logits)
        return self.next()

    def ranking(self) -> list[int]:
        """Give the best tokens for the next place, best first: all bits of the logits decide."""
        logits = np.asarray(self._generator.get_logits(), np.float32).reshape(-1)
        return [int(token) for token in np.argsort(-logits, kind="stable")[:_RANKED]]

    def ended(self) -> bool:
        """Tell whether the engine takes the sequence for finished."""
        return bool(self._generator.is_done())

    def rewind(self, length: int) -> None:
        """Keep only the first tokens of the sequence."""
        self._generator.rewind_to(length)


class RawEngine:
    """One model folder, loaded.

    Args:
        folder: holds genai_config.json, the graph and the tokenizer.

    Raises:
        RuntimeError: the engine's own words; likewise from every method.
    """

    def __init__(self, folder: Path) -> None:
        og.disable_telemetry_events()
        config = og.Config(str(folder))
        config.overlay(session_options())
        self._model = og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)
        says = GenaiFolder.read(folder)
        self.eos_token_ids = says.eos_token_ids
        self.context_length = says.context_length
        self.vocabulary_size = says.vocabulary_size

    def render(self, turns: str, tools: str | None = None) -> str:
        """Render a conversation, given as JSON text, with the folder's chat template."""
        more = {} if tools is None else {"tools": tools}
        return str(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, **more))

    def encode(self, text: str | bytes) -> list[int]:
        """Tokenise; special tokens in the text are parsed."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text in one piece."""
        return str(self._tokenizer.decode(np.asarray(tokens, np.int32)))

    def streamed(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text one by one, as a chat shows them."""
        stream = self._tokenizer.create_stream()
        return "".join(stream.decode(int(token)) for token in tokens)

    def session(self, max_length: int, **search: Any) -> RawSession:
        """Make a generator, greedy unless `search` says otherwise; what it draws is seeded."""
        return RawSession(self._model, max_length, search)

    def batched(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Answer several prompts at once in the batching engine; what it generated for each."""
        engine = og.Engine(self._model)
        events = engine.create_event_buffer(_EVENTS)
        requests = [self._request(engine, prompt, new_tokens) for prompt in prompts]
        answers: list[list[int]] = [[] for _ in prompts]
        for _ in range(_MOST_TURNS_OF_THE_ENGINE):
            if not engine.has_pending_requests():
                break
            for event in engine.run(events):
                if event.flags.value & og.EngineEventFlags.TOKEN.value:
                    answers[requests.index(event.request)].append(int(event.token))
        for request in requests:
            request.close()
        return answers

    def _request(self, engine: Any, prompt: Sequence[int], new_tokens: int) -> Any:
        # The cache is sized for the session, so it has to be said, as max_length has to be.
        options = og.RequestOptions()
        options.set_max_session_tokens(len(prompt) + new_tokens + 1)
        request = engine.create_request(options=options)
        turn = og.TurnOptions(request)
        turn.set_do_sample(False)
        turn.set_min_generated_tokens(new_tokens)
        turn.set_max_generated_tokens(new_tokens)
        request.begin_turn(np.asarray(prompt, np.int32), turn)
        return request
