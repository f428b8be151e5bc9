"""A task of a release on a machine of a cluster: what it needs is there, and the machine is alike.

What travels is small; checkpoint, questions and variants come out of the shared store. Knows
nothing of Dask or Ray.
"""

from __future__ import annotations

import copy
import functools
import inspect
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from prefect import Task
from prefect.client.schemas.objects import State
from prefect.states import Completed

from tasks.core.checkpoint_files import checkpoint_entries, deciding_files
from tasks.core.errors import EnvironmentUnfit, ResourceBusy
from tasks.core.files import digest_of, sha256_file
from tasks.core.progress import StepEvent, StepState, listening
from tasks.core.records import Checkpoint, Digest, Environment, QuestionFile, Record
from tasks.core.settings import Settings
from tasks.core.shared_objects import shared_url
from tasks.core.shared_store import SharedStore, store_of
from tasks.core.store import Store
from tasks.environment.check import machine_class
from tasks.environment.cpu import read_cpu
from tasks.environment.packages import compare_packages, read_pins
from tasks.variants.toolchain import toolchain

R = TypeVar("R")

QUESTIONS = "questions.jsonl"
# Dask's nanny and Ray set these to 1 for their workers; our children say themselves what they use.
THREAD_BOUNDS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkOrder(Record):
    """What must be so on a worker, and what is to be fetched there.

    Attributes:
        shared: URL of the shared store; None when the workers share this machine's home.
        code: digest over Ingot's steps.
        toolchain: versions of the tools that build.
        is_elsewhere: paths of the flow's machine mean nothing here.
        questions: digest of questions to the store object that has their file.
    """

    shared: str | None
    code: Digest
    toolchain: str
    is_elsewhere: bool
    questions: dict[Digest, Digest]


class Dispatch:
    """The flow's side: puts into the shared store what the tasks that leave will ask for.

    Args:
        settings: those of the flow.
        is_elsewhere: the workers are on other machines, or may be.
    """

    def __init__(self, settings: Settings, *, is_elsewhere: bool) -> None:
        self._settings = settings
        self._is_elsewhere = is_elsewhere
        self._shared: set[Digest] = set()
        self._questions: dict[Digest, Digest] = {}

    def order(self, parameters: Mapping[str, Any]) -> WorkOrder:
        """Share what these parameters name, and write the order.

        Raises:
            ResourceBusy, EnvironmentUnfit: the shared store does not take it.
        """
        store = store_of(self._settings)
        if self._is_elsewhere and isinstance(store, SharedStore):
            for given in parameters.values():
                self._share(given, store)
        shared = self._settings.shared
        return WorkOrder(
            shared=shared_url(shared) if shared else None,
            code=code_digest(),
            toolchain=toolchain(),
            is_elsewhere=self._is_elsewhere,
            questions=self._questions,
        )

    def _share(self, given: object, store: SharedStore) -> None:
        if isinstance(given, Checkpoint) and given.digest not in self._shared:
            share_checkpoint(given, store)
            self._shared.add(given.digest)
        if isinstance(given, QuestionFile) and given.digest not in self._questions:
            with store.staging() as staged:
                folder = staged / "object"
                folder.mkdir()
                shutil.copyfile(given.path, folder / QUESTIONS)
                self._questions[given.digest] = store.publish(folder)


def share_checkpoint(checkpoint: Checkpoint, store: SharedStore) -> None:
    """Put a checkpoint into the shared store: its digest is that of an object of its files."""
    folder = checkpoint.path
    names = (e.relative_to(folder).as_posix() for e in checkpoint_entries(folder) if e.is_file())
    deciding = deciding_files(names, checkpoint.weight_files)
    store.share(checkpoint.digest, {name: folder / name for name in deciding})


def at_worker(task: Task[Any, R], step: str, order: WorkOrder) -> Task[Any, R]:
    """Give the same task as it runs on a worker; its state says how the step ended."""
    remote = copy.copy(task)
    remote.fn = on_worker(task.fn, step, order)
    return remote


def on_worker(work: Callable[..., R], step: str, order: WorkOrder) -> Callable[..., Any]:
    """Wrap a task's function: the worker is looked at first, and its inputs are brought."""

    @functools.wraps(work)
    def run(*arguments: Any, **options: Any) -> State[R]:
        inputs = inspect.signature(work).bind(*arguments, **options)
        _settle_in()
        require_alike(order, inputs.arguments.values())
        store = store_of(Settings())
        for name, given in inputs.arguments.items():
            inputs.arguments[name] = _at_hand(given, store, order)
        ending = _Ending(step)
        with listening(ending.hear):
            result = work(*inputs.args, **inputs.kwargs)
        return Completed(message=ending.detail or None, data=result)

    return run


class _Ending:
    """Remembers the line that a step ended with; other steps of the process are not its own."""

    def __init__(self, step: str) -> None:
        self._step = step
        self.detail = ""

    def hear(self, event: StepEvent) -> None:
        if event.step == self._step and event.state is StepState.FINISHED:
            self.detail = event.detail


def _settle_in() -> None:
    for name in THREAD_BOUNDS:
        if os.environ.get(name) == "1":
            del os.environ[name]
    # A worker has not imported the flow, which does the same (`flows/release.py`).
    for package in ("flows", "tasks"):
        logging.getLogger(package).setLevel(logging.INFO)


def require_alike(order: WorkOrder, inputs: Iterable[object]) -> None:
    """Refuse a worker on which the same step could give something else.

    Raises:
        EnvironmentUnfit: other settings, code or tools; or, for what depends on the machine,
            another kind of machine.
    """
    shared = Settings().shared
    _require("INGOT_SHARED", order.shared, shared_url(shared) if shared else None)
    _require("Ingot's code, by digest", order.code[:12], code_digest()[:12])
    _require("the tools", order.toolchain, toolchain())
    for given in inputs:
        if isinstance(given, Environment):
            _require("the kind of machine", given.machine_class[:12], machine_class_here()[:12])


def _require(what: str, expected: object, got: object) -> None:
    if expected != got:
        raise EnvironmentUnfit(
            f"worker {socket.gethostname()} is not what the release was started on: {what}",
            expected=str(expected),
            got=str(got),
            next_step="give all workers the installation, the settings and the kind of machine "
            "of the one that starts releases (docs/cluster.md)",
        )


def _at_hand(given: Any, store: Store, order: WorkOrder) -> Any:
    if not order.is_elsewhere or not isinstance(store, SharedStore):
        return given
    if isinstance(given, Checkpoint):
        return given.model_copy(update={"path": _fetched(given.digest, store)})
    if isinstance(given, QuestionFile):
        folder = _fetched(order.questions[given.digest], store)
        return given.model_copy(update={"path": folder / QUESTIONS})
    return given


def _fetched(digest: Digest, store: SharedStore) -> Path:
    folder = store.path(digest)
    if not folder.is_dir():
        raise ResourceBusy(
            f"worker {socket.gethostname()} finds no object {digest[:12]} in the shared store",
            next_step="if it happens again run the release again, which shares it anew",
        )
    return folder


@functools.cache
def code_digest() -> Digest:
    """Give the digest over the sources of Ingot's steps."""
    root = Path(__file__).resolve().parents[1] / "tasks"
    files = (f for f in root.rglob("*") if f.is_file() and "__pycache__" not in f.parts)
    return digest_of((file.relative_to(root).as_posix(), sha256_file(file)) for file in files)


@functools.cache
def machine_class_here() -> str:
    """Give what decides speed and rounding on this machine, as `Environment.machine_class`."""
    return machine_class(read_cpu(), compare_packages(read_pins()))
