"""Examine what a variant does with input at and beyond the edges, in raw ONNX Runtime GenAI.

The parent side: goes on with the next case where one ends the process. The cases are run in
`edge_child.py`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.core.errors import ChildKilled, ChildTimedOut, IngotError, ToolFailed, VariantUnusable
from tasks.core.records import Checkpoint, Cost, Evidence, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import Store
from tasks.examine.edge.journal import Journal
from tasks.examine.examination import FramesRequest, Say, examine_in_child, intact_folder
from tasks.examine.protocol import Protocol

EDGE_CHILD = "tasks.examine.edge.edge_child:examine"
_MOST_DEATHS = 5
_CASES = 64  # at least as many as there are; a deadline ends a hanging child, it is no forecast

# The longest case reads and writes under 512 tokens; the rate is that of a loaded 2-core machine.
_CASE_TOKENS = 512
_WEIGHTS_PER_S = 1e9
_CASE_START_S = 60.0

# Faults of native code. SIGKILL is not one: that is memory, or somebody who had enough.
_CRASHES = re.compile(r"SIG(SEGV|ABRT|BUS|FPE|ILL|TRAP|SYS)\b")


class EdgeRequest(FramesRequest):
    """What the child needs: the variant, and where to keep what must outlive a crash.

    Attributes:
        journal: file of the cases that were run.
        scratch: folder for damaged copies.
        patience_s: after which a case counts as hanging.
        gives_up: too many cases have ended their process; those that are left have failed.
    """

    variant: Variant
    folder: Path
    journal: Path
    scratch: Path
    patience_s: float
    gives_up: bool
    protocol: Protocol


def examine_edges(
    checkpoint: Checkpoint,
    variant: Variant,
    *,
    settings: Settings,
    protocol: Protocol,
    say: Say = lambda _line: None,
    target: str = EDGE_CHILD,
) -> Evidence:
    """Run the edge suite; a case that crashes or hangs has failed, and the next one is run.

    The frames hold `edge.parquet`: a row a case with case, expected, got, passed, seconds.

    Args:
        checkpoint: its size decides when a case hangs.
        variant: examined in its store folder.
        settings: where the store is.
        protocol: its seed draws the token ids in prompts.
        say: told which case is run.
        target: the child's function.

    Raises:
        VariantUnusable: the variant does not load, or is not what was built.
        DoesNotFit: memory ran out.
        ChildKilled: somebody else ended the child.
    """
    folder = intact_folder(variant, store_of(settings))
    patience_s = _CASE_START_S + checkpoint.parameters * _CASE_TOKENS / _WEIGHTS_PER_S
    with Store(settings.store).staging() as kept:
        journal = Journal(kept / "journal.jsonl")

        def run_the_rest(deaths: int) -> tuple[Evidence, str, Cost]:
            return examine_in_child(
                target,
                lambda frames: EdgeRequest(
                    frames=frames,
                    variant=variant,
                    folder=folder,
                    journal=kept / "journal.jsonl",
                    scratch=kept,
                    patience_s=patience_s,
                    gives_up=deaths >= _MOST_DEATHS,
                    protocol=protocol,
                ),
                Evidence,
                log_name=f"edge-{variant.precision}-{variant.digest[:12]}.log",
                deadline_s=_CASES * patience_s,
                settings=settings,
                say=say,
            )

        try:
            evidence, frames, cost = outliving_deaths(run_the_rest, journal)
        finally:
            # Before the store clears its folder: it makes files writable, and links share modes.
            shutil.rmtree(kept / "copies", ignore_errors=True)
    return evidence.model_copy(update={"frames": frames, "cost": cost})


def outliving_deaths(
    run_the_rest: Callable[[int], tuple[Evidence, str, Cost]], journal: Journal
) -> tuple[Evidence, str, Cost]:
    """Run the rest of the cases as often as one of them ends its process."""
    deaths = 0
    while True:
        try:
            return run_the_rest(deaths)
        except (ChildKilled, ChildTimedOut, ToolFailed) as problem:
            begun = journal.unfinished()
            if begun is None or not is_the_cases_fault(problem):
                raise
            hint = " (code 1: the case took too long)" if isinstance(problem, ToolFailed) else ""
            journal.end(begun.failed(f"it ended its process: {problem.message}{hint}"))
            deaths += 1


def is_the_cases_fault(problem: IngotError) -> bool:
    """Tell a process that its own work ended from one that was killed, or could not begin."""
    if isinstance(problem, ChildKilled):
        return _CRASHES.search(problem.message) is not None
    return not isinstance(problem, VariantUnusable)
