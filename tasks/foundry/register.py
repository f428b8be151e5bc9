"""Register a champion in the production index, in a child process, and have it answer there.

Knows what to ask for; how it is done and checked is in `register_child`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasks.core.child import run_child
from tasks.core.records import Digest, Question, Record, Registration, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.foundry.naming import model_alias

DEADLINE_S = 3600.0


class RegisterRequest(Record):
    """What the child is asked for.

    Attributes:
        alias: `<name>-<precision>-cpu`.
        digest: the variant's store object.
        question: put to the model once it is registered.
    """

    home: Path
    alias: str
    digest: Digest
    question: Question


def register_champion(
    name: str,
    variant: Variant,
    question: Question,
    *,
    settings: Settings,
    say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
) -> Registration:
    """Make a variant what its alias means in Foundry Local, and prove that it answers.

    The same bytes as the alias means already keep their id, and are proven again; other bytes get
    the next number. A registration that does not stand the proof is taken back, and the version
    before it is what the alias means again.

    Args:
        name: name of the release; the id is `<name>-<precision>-cpu:<N>`.
        variant: a variant in the store.
        question: asked once; `right` of the result is about its expectation only. A wrong answer
            that equals ONNX Runtime GenAI's own is no reason to take the registration back.
        settings: where the store, the index and the locks are.
        say: gets one line of progress.

    Raises:
        InputError: Foundry Local would refuse the name, or the question is too long.
        VariantUnusable: the store object is damaged, or does not load.
        ToolFailed: the registered model does not answer as ONNX Runtime GenAI does.
        EnvironmentUnfit: the model index cannot be read or written.
        TransientFault: the index is locked, or the child was killed.
    """
    alias = model_alias(name, variant.precision)
    store_of(settings).path(variant.digest)  # the child looks on this machine only
    request = RegisterRequest(
        home=settings.home, alias=alias, digest=variant.digest, question=question
    )
    registration, usage = run_child(
        "tasks.foundry.register_child:register",
        request,
        Registration,
        log=settings.logs / f"foundry-register-{alias}.log",
        deadline_s=DEADLINE_S,
        on_progress=say,
    )
    say(f"{registration.model_id} answered after {usage.seconds:.1f} s")
    return registration
