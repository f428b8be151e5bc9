"""Put all edge cases to Foundry Local's web service on one variant, whatever they do to it.

The parent side of `suite_child.py`: a child that crashes, hangs or ends is a finding about the
case it was in, and the next child goes on behind it, on the same model index.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tasks.core.child import Usage, run_child
from tasks.core.errors import ChildKilled, ChildTimedOut, IngotError, InputError, ToolFailed
from tasks.core.records import Digest, Measurement, Message, Record
from tasks.foundry.edge.case import Case
from tasks.foundry.edge.catalogue import KILLED, cases
from tasks.foundry.edge.journal import Journal

FAILURES = "foundry.edge_failures"
DEADLINE_S = 3600.0
# A service that breaks down at every few cases needs no further proof.
MOST_BREAKDOWNS = 3
_OUT_OF_MEMORY = "SIGKILL"


class EdgeRequest(Record):
    """What the children are asked for.

    Attributes:
        folder: the variant, only read.
        scratch: an empty folder for index and journal.
        frames: gets `foundry_edge.parquet`.
        conversations: by the rules, at least one; the first is the plain question.
        parameters: weights of the model.
        hugging_face: tokens that the checkpoint's tokenizer counts for `texts.odd_texts`, each
            asked as the last message of the plain conversation.
    """

    subject: Digest
    folder: Path
    scratch: Path
    frames: Path
    conversations: list[list[Message]]
    parameters: int
    hugging_face: dict[str, int]

    @property
    def journal(self) -> Journal:
        """What has happened so far."""
        return Journal(self.scratch / "journal.jsonl")


class EdgeFound(Record):
    """What came of the suite."""

    metrics: dict[str, Measurement]
    notes: list[str]


def put_all_cases(
    request: EdgeRequest,
    *,
    log: Path,
    say: Callable[[str], None],
    target: str = "tasks.foundry.edge.suite_child:put_cases",
) -> tuple[EdgeFound, Usage]:
    """Put every case, in as many processes as it takes; one of them is killed on purpose.

    Returns:
        The metrics, with `foundry_edge.parquet` written, and what the processes cost; of one that
        broke down nothing is known.

    Raises:
        ChildKilled: SIGKILL that was not ours: most often there was no memory left.
        IngotError: the runtime does not start, or whatever else is no case's fault.
    """
    started = time.monotonic()
    while True:
        over, was_killed = len(request.journal.rows()), request.journal.is_killed()
        try:
            found, usage = run_child(
                target, request, EdgeFound, log=log, deadline_s=DEADLINE_S, on_progress=say
            )
            return found, _cost(usage, request.journal, time.monotonic() - started)
        except (ChildKilled, ChildTimedOut, InputError, ToolFailed) as problem:
            if request.journal.is_killed() and was_killed:
                raise  # the child after the kill did nothing at all, and would again
            _blame(request.journal, problem, goes_on=len(request.journal.rows()) > over)


def _blame(journal: Journal, problem: IngotError, *, goes_on: bool) -> None:
    """Fail the case that the child was in; what happened outside of one is raised again.

    But for a child that did put cases and `goes_on`: it left a service that answered no more.
    """
    if journal.is_killed():
        return
    name = journal.in_progress()
    if _is_for_want_of_memory(problem) or (name is None and not goes_on):
        raise problem
    if name is not None:
        journal.fail(_case(name), f"the process broke down: {problem}")
    if sum(not row.survived for row in journal.rows()) >= MOST_BREAKDOWNS:
        _give_up(journal)


def _case(name: str) -> Case:
    return next(case for case in [*cases(), KILLED] if case.name == name)


def _is_for_want_of_memory(problem: IngotError) -> bool:
    """A native fault ends with SIGSEGV, SIGABRT, SIGBUS; SIGKILL comes from outside."""
    return isinstance(problem, ChildKilled) and _OUT_OF_MEMORY in problem.message


def _give_up(journal: Journal) -> None:
    over = {row.case for row in journal.rows()}
    for case in [*cases(), KILLED]:
        if case.name not in over:
            journal.fail(case, f"not put: the service broke down {MOST_BREAKDOWNS} times before")


def _cost(last: Usage, journal: Journal, seconds: float) -> Usage:
    killed = journal.killing()
    if killed is None:
        return Usage(seconds, last.cpu_s, last.peak_rss_bytes)
    return Usage(
        seconds,
        last.cpu_s + killed.cpu_s,
        max(last.peak_rss_bytes, killed.peak_rss_bytes),
    )
