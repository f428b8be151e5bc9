"""What goes back: takes entries out of the production index, one by one, by their id.

Unregistering by alias would take all versions with it. Deletes no files.
"""

from __future__ import annotations

from tasks.core.errors import InputError
from tasks.core.records import Message
from tasks.core.settings import Settings
from tasks.foundry.proof import prove
from tasks.foundry.registry import registration_lock
from tasks.foundry.roll_back import RollBackRequest, RolledBack
from tasks.foundry.runtime import FoundryRuntime, foundry_runtime

_GREETING = [Message(role="user", content="Hello")]


def roll_back(request: RollBackRequest) -> RolledBack:
    """Prove the target, then unregister the present champion and what is above the target."""
    settings = Settings(home=request.home)
    with (
        registration_lock(settings.locks),
        foundry_runtime(settings.foundry, settings.logs / "foundry") as runtime,
    ):
        if runtime.find(request.target) is None:
            raise InputError(
                f"{request.target} is not registered any more",
                expected=", ".join(runtime.listed_ids()) or "a registered model; there is none",
                next_step="release its checkpoint again",
            )
        prove(runtime, request.target, _GREETING)
        leaving = _leaving(runtime, request)
        for model_id in leaving:
            runtime.unregister(model_id)
    return RolledBack(unregistered=leaving)


def _leaving(runtime: FoundryRuntime, request: RollBackRequest) -> list[str]:
    alias, _, version = request.target.rpartition(":")
    above = [number for number in runtime.versions(alias) if number > int(version)]
    leaving = [f"{alias}:{number}" for number in sorted(above, reverse=True)]
    if request.present not in leaving and runtime.find(request.present) is not None:
        leaving.append(request.present)
    return leaving
