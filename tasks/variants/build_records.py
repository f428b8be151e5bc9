"""What the building and the probing child are asked, and what they answer.

Apart from the children's code, so that the flow's process can name them without importing a tool.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.errors import ToolFailed
from tasks.core.records import BuilderWay, Checkpoint, Quantisation, Recipe, Record

# The pass's FanOutReport, in the folder that Olive copies for it.
REPORT_FILE = "variants.json"


class NotCovered(ToolFailed):
    """The fast way does not know how to build this; the plain way may."""


class BuildRequest(Record):
    """What to build alone and where.

    Attributes:
        model_folder: gets the finished model; does not exist yet.
        work_folder: for Olive's cache and output; whoever made it removes it.
    """

    checkpoint: Checkpoint
    recipe: Recipe
    model_folder: Path
    work_folder: Path


class BuildResult(Record):
    """What was read back from the finished folder.

    Attributes:
        way: how it was built: `fast` in one reading of the weights, or `plain`.
        why_plain: empty for a fast build.
    """

    quantisation: Quantisation
    context_length: int
    eos_token_ids: list[int]
    way: BuilderWay = "plain"
    why_plain: str = ""


class FanOutRequest(Record):
    """What to build together, from one reading of the weights, and where.

    Attributes:
        recipes: each for the fast way.
        models: folder that gets each finished model, in a folder named by its recipe's slug.
        work_folder: for Olive's cache and output; whoever made it removes it.
    """

    checkpoint: Checkpoint
    recipes: list[Recipe]
    models: Path
    work_folder: Path


class Failure(Record):
    """An error that one recipe ended with, as `IngotError.to_fields` writes it."""

    kind: str
    fields: dict[str, str]


class FanOutReport(Record):
    """By name: the variants that the pass wrote, and why it did not write the others."""

    made: list[str]
    failures: dict[str, Failure]


class FanOutResult(Record):
    """By slug: what was built, and why the others were not."""

    built: dict[str, BuildResult]
    failures: dict[str, Failure]


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
