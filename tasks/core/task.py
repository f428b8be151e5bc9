"""The Prefect face of what steps share: caching, locking and retrying as Ingot means them.

A task's record is cached under what its result depends on; a hit counts only while the store
objects that the record stands for are whole. What the tasks do is in their own folders.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable
from datetime import UTC
from pathlib import Path
from typing import Any

from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import TaskRunContext
from prefect.locking.protocol import LockManager
from prefect.results import ResultStore
from prefect.tasks import Task, exponential_backoff
from prefect.transactions import IsolationLevel
from prefect.types import DateTime

from tasks.core.errors import TransientFault, named
from tasks.core.locks import KernelLocks
from tasks.core.progress import step
from tasks.core.records import Record
from tasks.core.settings import Settings
from tasks.core.shared_objects import shared_url
from tasks.core.shared_store import records_block, store_of

log = logging.getLogger(__name__)

Inputs = dict[str, Any]

LONG_AGO = DateTime.fromtimestamp(0, tz=UTC)

RETRIES = 2
BACKOFF_S = 5


class KernelLockManager(LockManager):
    """Prefect's lock protocol over `KernelLocks`."""

    def __init__(self) -> None:
        self._locks = KernelLocks(lambda: Settings().locks)

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelLockManager:
        """Stay one object: `CachePolicy.configure` copies the policy; locks cannot be."""
        return self

    def __reduce__(self) -> tuple[type[KernelLockManager], tuple[()]]:
        """Travel to another process as a fresh manager: held locks stay where they are."""
        return (KernelLockManager, ())

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,  # noqa: ARG002  (Prefect's protocol; a kernel lock has none)
    ) -> bool:
        """See Prefect's `LockManager`."""
        if self._locks.acquire(key, holder, 0):
            return True
        with step(f"wait for {key.rsplit('-', 1)[0]}") as say:
            say("another run is making the same")
            return self._locks.acquire(key, holder, acquire_timeout)

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """See Prefect's `LockManager`."""
        return await asyncio.to_thread(
            self.acquire_lock, key, holder, acquire_timeout, hold_timeout
        )

    def release_lock(self, key: str, holder: str) -> None:
        """See Prefect's `LockManager`."""
        self._locks.release(key, holder)

    def is_locked(self, key: str) -> bool:
        """See Prefect's `LockManager`."""
        return self._locks.is_locked(key)

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """See Prefect's `LockManager`."""
        return self._locks.is_holder(key, holder)

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """See Prefect's `LockManager`."""
        waiter = f"waiter-{uuid.uuid4()}"
        if not self._locks.acquire(key, waiter, timeout):
            return False
        self._locks.release(key, waiter)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """See Prefect's `LockManager`."""
        return await asyncio.to_thread(self.wait_for_lock, key, timeout)


class RecordPolicy(CachePolicy):
    """Cache a task's record under the parts of its inputs that decide it.

    Prefect's own policies hash a path by its text and never look whether the files behind a
    cached record are still there (both measured, 3.8.8).

    Attributes:
        depends_on: from the task's inputs to what the result depends on; must be plain JSON or
            records, so that the key is the same in every process.
    """

    depends_on: Callable[[Inputs], list[Any]]

    def __init__(self, depends_on: Callable[[Inputs], list[Any]]) -> None:
        super().__init__(isolation_level=IsolationLevel.SERIALIZABLE, lock_manager=LOCKS)
        self.depends_on = depends_on

    def compute_key(
        self,
        task_ctx: TaskRunContext,
        inputs: Inputs,
        flow_parameters: dict[str, Any],  # noqa: ARG002  (Prefect's signature)
        **_: Any,
    ) -> str:
        """Give the key, and drop a record whose objects are gone or damaged."""
        key = key_of(task_ctx.task.name, self.depends_on(inputs))
        _drop_if_hollow(task_ctx.result_store, key)
        return key


def key_of(name: str, parts: list[Any]) -> str:
    """Give the cache key of a task: its name, readable, and a digest over what decides it.

    Not Prefect's `task_key`, which hashes the compiled function with its file and line number: it
    is another one after a comment, in another checkout and, where the code holds a set, in
    another process (measured, 3.8.8).

    Raises:
        TypeError: a part is neither plain JSON nor a record.
    """
    text = json.dumps([name, *parts], sort_keys=True, default=_plain)
    readable = re.sub(r"[^a-z0-9]+", "-", name.lower())
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()}"


def _plain(part: object) -> Any:
    if isinstance(part, Record):
        return part.model_dump(mode="json")
    raise TypeError(f"{part!r} in a cache key: expected plain JSON or a record")


def _drop_if_hollow(results: ResultStore, key: str) -> None:
    if not results.exists(key):
        return
    holder = f"checker-{uuid.uuid4()}"
    # Two processes may find the same hollow record: the second looks once the first is done.
    results.acquire_lock(key, holder)
    try:
        if results.exists(key) and not _is_whole(results.read(key, holder=holder).result):
            log.warning("cached record %s is incomplete; the step runs again", key[:40])
            # Prefect's stores cannot delete; what has expired does not exist for them.
            results.write(None, key=key, expiration=LONG_AGO, holder=holder)
            results.cache.clear()
    finally:
        results.release_lock(key, holder)


def _is_whole(record: object) -> bool:
    if not isinstance(record, Record) or not record.is_settled():
        return False
    store = store_of(Settings())
    return all(store.is_intact(name) for name in record.objects())


def may_heal(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    """Tell whether another try can help.

    A plain function on purpose: Prefect accepts a callable object here and then never retries.
    """
    problem = state.result(raise_on_failure=False)
    return isinstance(problem, Exception) and isinstance(named(problem), TransientFault)


LOCKS = KernelLockManager()

RETRYING: dict[str, Any] = {
    "retries": RETRIES,
    "retry_delay_seconds": exponential_backoff(BACKOFF_S),
    "retry_jitter_factor": 0.3,
    "retry_condition_fn": may_heal,
}


def record_storage(settings: Settings) -> Path | str:
    """Give what Prefect keeps records in: a folder, or the name of a block that it looks up.

    A name and not the block, which must be saved on a server before a task may have it; it is
    loaded where and when a task runs, also on another machine (measured, 3.8.8).
    """
    if settings.shared is None:
        return settings.records
    url = shared_url(settings.shared)
    if url.startswith("file://"):
        return Path(url.removeprefix("file://")) / "records"
    return f"remote-file-system/{records_block(url)}"


UNCACHED: dict[str, Any] = {"persist_result": False, "cache_policy": NO_CACHE}


def cached(depends_on: Callable[[Inputs], list[Any]]) -> dict[str, Any]:
    """Options of a task whose record is cached and whose transient faults are retried.

    The storage is the task's own and not the flow's: Prefect also writes the exception of a failed
    flow into the flow's storage, and a refused checkpoint shall leave nothing behind.
    """
    return {
        **RETRYING,
        "cache_policy": RecordPolicy(depends_on),
        "persist_result": True,
        "result_storage": record_storage(Settings()),
        "result_serializer": "json",
        "cache_result_in_memory": False,
    }
