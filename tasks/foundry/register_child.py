"""What registers a champion: the only writer of new entries in the production index.

`register_model` looks at no weights and moves the alias at once, so whatever is registered here is
loaded, asked and compared before the child reports it, and taken back otherwise. Which variant
deserves it was decided elsewhere.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack

from tasks.core.errors import ToolFailed, VariantUnusable
from tasks.core.progress import report_progress
from tasks.core.questions import is_right
from tasks.core.records import Registration
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.foundry.proof import prove, prove_over_http, require_newest
from tasks.foundry.register import RegisterRequest
from tasks.foundry.registry import Registered, Registry, registration_lock
from tasks.foundry.runtime import FoundryRuntime, foundry_runtime

log = logging.getLogger(__name__)


def register(request: RegisterRequest) -> Registration:
    """Register and prove one variant; see `register_champion` for what is promised."""
    settings = Settings(home=request.home)
    report_progress("waiting for the right to change the model index")
    with (
        registration_lock(settings.locks),
        foundry_runtime(settings.foundry, settings.logs / "foundry") as runtime,
    ):
        registry = Registry(runtime, settings.foundry, request.alias)
        registration = _registered_already(request, runtime, registry)
        return registration or _register(request, runtime, registry, Store(settings.store))


def _registered_already(
    request: RegisterRequest, runtime: FoundryRuntime, registry: Registry
) -> Registration | None:
    """Prove the entry that the alias means, if it has these bytes; drop it if it is broken."""
    registered = registry.current(request.digest)
    if registered is None:
        return None
    try:
        answer = prove(runtime, registered.model_id, request.question.messages)
    except ToolFailed as problem:
        log.warning("%s is broken and is registered afresh: %s", registered.model_id, problem)
        registry.withdraw(registered)
        return None
    return _report(request, registered, answer)


def _register(
    request: RegisterRequest, runtime: FoundryRuntime, registry: Registry, store: Store
) -> Registration:
    report_progress("checking every byte of the variant")
    if not store.is_intact(request.digest, deep=True):
        store.discard(request.digest)
        raise VariantUnusable(
            f"the store object {request.digest[:12]} of {request.alias} was missing or damaged, "
            "and has been removed; nothing was registered",
            next_step="release again: the variant is built anew",
        )
    with ExitStack() as undo:
        registered = registry.enter(request.digest, store.path(request.digest))
        undo.callback(registry.withdraw, registered)
        require_newest(runtime, registered.model_id)
        answer = prove(runtime, registered.model_id, request.question.messages)
        prove_over_http(runtime, registered.model_id, request.question.messages, answer)
        undo.pop_all()
    return _report(request, registered, answer)


def _report(request: RegisterRequest, registered: Registered, answer: str) -> Registration:
    return Registration(
        model_id=registered.model_id,
        variant=request.digest,
        path=registered.folder,
        created=registered.created,
        question=request.question.messages[-1].content,
        answer=answer,
        right=is_right(request.question.expectation, answer),
    )
