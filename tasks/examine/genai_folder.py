"""What both ways into ONNX Runtime GenAI take from a model folder, and tell a session.

Light, because the worker that loads damaged folders uses it too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class GenaiFolder:
    """What genai_config.json says of the model.

    Attributes:
        eos_token_ids: tokens that end an answer.
        context_length: tokens of prompt and answer together, at most.
        vocabulary_size: token ids are below it.
    """

    eos_token_ids: list[int]
    context_length: int
    vocabulary_size: int

    @classmethod
    def read(cls, folder: Path) -> GenaiFolder:
        """Read a folder that the engine has loaded."""
        model = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))["model"]
        eos = model["eos_token_id"]
        return cls(
            eos_token_ids=eos if isinstance(eos, list) else [eos],
            context_length=model["context_length"],
            vocabulary_size=model["vocab_size"],
        )


def session_options(threads: int | None = None) -> str:
    """Give the overlay of a quiet session, as JSON; None keeps the folder's number of threads.

    Spinning threads burn the cores that the other examinations run on: 179 ms a token with, 82 ms
    without, on a busy machine (measured). It does not change a bit of the results.
    """
    options: dict[str, Any] = {"session.intra_op.allow_spinning": "0"}
    if threads:
        options["intra_op_num_threads"] = threads
    return json.dumps({"model": {"decoder": {"session_options": options}}})
