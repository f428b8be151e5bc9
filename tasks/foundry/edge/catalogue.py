"""All cases of the suite in the order in which they are put to the service: the worst last."""

from __future__ import annotations

from tasks.foundry.edge.boundaries import answers_of_a_context, boundaries
from tasks.foundry.edge.case import Case, Found, not_asked
from tasks.foundry.edge.refusals import refusals
from tasks.foundry.edge.service import Service
from tasks.foundry.edge.texts import texts
from tasks.foundry.edge.traffic import traffic


def cases() -> list[Case]:
    """Give the cases that are put to one running service."""
    return [*refusals(), *texts(), *boundaries(), *traffic(), *answers_of_a_context()]


def _done_by_the_child(_: Service) -> Found:
    return not_asked("a process can not report its own death")


# Put by suite_child.py: the process that serves kills itself, and the next one looks.
KILLED = Case(
    "process killed while two clients are answered",
    "a new process finds the models in the index, no leftovers and no lock, and answers as before",
    _done_by_the_child,
)
