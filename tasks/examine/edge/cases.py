"""The edge suite: which cases there are, and how one is run.

After every case the engine must do what it did before; what each case asks for is its own matter.
"""

from __future__ import annotations

import time

from tasks.examine.edge.case import PROMPT_TOKENS, SENTENCE, Case, Seen, Subject, failure
from tasks.examine.edge.engine_cases import engine_cases
from tasks.examine.edge.folder_cases import folder_cases
from tasks.examine.edge.journal import Outcome
from tasks.examine.edge.text_cases import text_cases


def all_cases() -> list[Case]:
    """Give every case, in the order in which they are run."""
    return [*text_cases(), *engine_cases(), *folder_cases()]


def run_case(case: Case, subject: Subject) -> Outcome:
    """Run one case, then see whether the engine is as it was before.

    Raises:
        DoesNotFit: memory ran out, which says nothing about the variant.
    """
    started = time.perf_counter()
    found: list[Seen] = []
    words = failure(lambda: found.append(case.run(subject)))
    seen = found[0] if found else Seen(False, f"the case ended early: {words}")
    harm = _harm(subject)
    return Outcome(
        case=case.name,
        expected=case.expected,
        got=f"{seen.got}; afterwards {harm}" if harm else seen.got,
        passed=seen.passed and harm is None,
        seconds=time.perf_counter() - started,
    )


def _harm(subject: Subject) -> str | None:
    """Say how the engine differs from before the case; None when it does not."""
    same: list[bool] = []
    words = failure(lambda: same.append(_is_as_usual(subject)))
    if words is not None:
        return f"the engine fails ({words})"
    return None if same[0] else "the engine says something else"


def _is_as_usual(subject: Subject) -> bool:
    # One pass only, since it is made after every case: all bits of its logits are in the ranking.
    session = subject.engine.session(PROMPT_TOKENS + 1)
    session.append(subject.prompts[0])
    as_usual = session.ranking() == subject.usual[0]
    return as_usual and subject.engine.encode(SENTENCE) == subject.usual_tokens
