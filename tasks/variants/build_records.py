"""What the building and the probing child are asked, and what they answer.

Apart from the children's code, so that the flow's process can name them without importing a tool.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.records import Checkpoint, Quantisation, Recipe, Record


class BuildRequest(Record):
    """What to build and where.

    Attributes:
        model_folder: gets the finished model; does not exist yet.
        work_folder: for Olive's cache and output; whoever made it removes it.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    model_folder: Path
    work_folder: Path


class BuildResult(Record):
    """What was read back from the finished folder."""

    quantisation: Quantisation
    context_length: int
    eos_token_ids: list[int]


class ProbeRequest(Record):
    """Which folder to probe."""

    folder: Path


class ProbeResult(Record):
    """What came out.

    Attributes:
        prompt_tokens: length of the rendered prompt.
        tokens: greedy tokens after it.
    """

    prompt_tokens: int
    tokens: list[int]
