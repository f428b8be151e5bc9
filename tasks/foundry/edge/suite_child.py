"""What puts edge cases to the web service, and ends in the last of them.

Runs in child processes that may crash at any point; what must be known afterwards is in the
journal before the next step is taken.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import psutil

from tasks.core.child_main import peak_rss_bytes
from tasks.core.errors import DoesNotFit, IngotError, InputError, ToolFailed
from tasks.core.progress import report_progress
from tasks.core.records import Measurement
from tasks.foundry.edge.case import Case, Found, Result, Row, broken, held
from tasks.foundry.edge.catalogue import KILLED, cases
from tasks.foundry.edge.journal import Event, Journal, Killing
from tasks.foundry.edge.service import NO_ANSWER, PATIENCE_S, Answer, Body, Service
from tasks.foundry.edge.suite import FAILURES, EdgeFound, EdgeRequest
from tasks.foundry.edge.texts import odd_texts
from tasks.foundry.faults import INDEX_FILE, raise_lack_of_room
from tasks.foundry.runtime import FoundryRuntime, LoadedModel, foundry_runtime

MODEL_ID, SPARE_ID = "edge-cpu:1", "spare-cpu:1"
FRAME = "foundry_edge.parquet"
_INDEX_FILES = {INDEX_FILE, INDEX_FILE.replace(".json", ".lock")}
_CLIENTS = 2
_SERVICE_IS_ILL = 4
_GAPS_NOTE = "known gaps of Foundry Local 2.2.1, which no build can mend"


def put_cases(request: EdgeRequest) -> EdgeFound:
    """Put the cases that are left; the last one kills this process, and the next process looks."""
    journal = request.journal
    if journal.is_killed():
        _look_after_the_kill(request)
    over = {row.case for row in journal.rows()}
    if KILLED.name in over:
        return _report(request)
    with _serving(request) as service:
        heard = _with_usual(service, journal)
        if isinstance(heard, Answer):
            return _refused(heard)
        for case in cases():
            if case.name not in over:
                _put_and_note(case, heard, journal)
        _die_while_answering(heard, journal)
    raise ToolFailed("a process went on after it was killed")


# ---------------------------------------------------------------- one case


def _put_and_note(case: Case, service: Service, journal: Journal) -> None:
    report_progress(f"edge case: {case.name}")
    journal.note(Event(started=case.name))
    row = put(case, service)
    journal.note(Event(row=row))
    if not row.survived:
        # Without stopping the service first: what does not answer may not stop either.
        os._exit(_SERVICE_IS_ILL)


def put(case: Case, service: Service) -> Row:
    """Put one case, then the plain question, which must be answered as usual.

    Raises:
        DoesNotFit: the service says that memory ran out, which is no case's fault.
    """
    started = time.monotonic()
    try:
        found = case.act(service)
    except (*NO_ANSWER, InputError, ToolFailed) as problem:
        found = broken(f"{type(problem).__name__}: {problem}")
    ailment = service.ailment()
    if ailment:
        found = broken(f"{found.got}; then {ailment}")
    if found.result is Result.BROKEN:
        raise_lack_of_room(found.got)
    return _row(case, found, time.monotonic() - started, survived=not ailment)


def _row(case: Case, found: Found, seconds: float, *, survived: bool) -> Row:
    return Row(
        case=case.name,
        expected=case.expected,
        got=found.got,
        result=found.result,
        survived=survived,
        seconds=round(seconds, 3),
    )


# ---------------------------------------------------------------- the service


@contextmanager
def _serving(request: EdgeRequest) -> Iterator[Service]:
    report_progress("loading in Foundry Local")
    with _runtime(request) as runtime:
        for model_id in (MODEL_ID, SPARE_ID):
            if runtime.find(model_id) is None:
                runtime.register(model_id, request.folder, {})
        with _service(request, runtime) as service:
            yield service


@contextmanager
def _runtime(request: EdgeRequest) -> Iterator[FoundryRuntime]:
    with foundry_runtime(request.scratch / "index", request.scratch / "app") as runtime:
        yield runtime


@contextmanager
def _service(request: EdgeRequest, runtime: FoundryRuntime) -> Iterator[Service]:
    with runtime.loaded(MODEL_ID) as model, runtime.serving() as endpoint:
        yield Service(
            port=int(endpoint.url.rpartition(":")[2]),
            model_id=MODEL_ID,
            spare_id=SPARE_ID,
            conversations=request.conversations,
            count=model.prompt_tokens,
            context=_context(model, request),
            parameters=request.parameters,
            odd_texts=odd_texts(request.folder),
            hugging_face=request.hugging_face,
            usual=request.journal.usual(),
        )


def _context(model: LoadedModel, request: EdgeRequest) -> int:
    plain = request.conversations[0]
    return model.token_room(plain) + model.prompt_tokens(plain)


def _with_usual(service: Service, journal: Journal) -> Service | Answer:
    """Give the service with its usual answer, or its refusal of the plain question."""
    if service.usual is not None:
        return service
    answer = service.probe()
    if answer.status != 200:
        raise_lack_of_room(str(answer))
        return answer
    journal.note(Event(usual=answer.text))
    return replace(service, usual=answer.text)


# ---------------------------------------------------------------- the killed process


def _die_while_answering(service: Service, journal: Journal) -> None:
    """Have clients ask without a pause, and end this process as the system's killer would."""
    report_progress(f"edge case: {KILLED.name}")
    journal.note(Event(started=KILLED.name))
    answered = threading.Barrier(_CLIENTS + 1)

    def ask_for_ever(ask: Callable[[Body], object]) -> None:
        ask(service.body())
        answered.wait()
        while True:
            ask(service.body())

    for ask in (service.post, service.stream):
        threading.Thread(target=ask_for_ever, args=(ask,), daemon=True).start()
    answered.wait(PATIENCE_S)
    journal.note(Event(killing=Killing(cpu_s=time.process_time(), peak_rss_bytes=peak_rss_bytes())))
    psutil.Process().kill()


def _look_after_the_kill(request: EdgeRequest) -> None:
    started = time.monotonic()
    request.journal.note(Event(started=KILLED.name))
    try:
        found = _after_the_kill(request)
    except DoesNotFit:
        raise
    except IngotError as problem:
        found = broken(str(problem))
    survived = found.result is not Result.BROKEN
    row = _row(KILLED, found, time.monotonic() - started, survived=survived)
    request.journal.note(Event(row=row))


def _after_the_kill(request: EdgeRequest) -> Found:
    index = request.scratch / "index"
    left = {entry.name for entry in index.iterdir()} - _INDEX_FILES
    if left:
        return broken(f"left behind in the index: {', '.join(sorted(left))}")
    with _runtime(request) as runtime:
        if runtime.listed_ids() != sorted((MODEL_ID, SPARE_ID)):
            return broken(f"the index lists {runtime.listed_ids()}")
        # Both take the index's lock.
        runtime.unregister(SPARE_ID)
        runtime.register(SPARE_ID, request.folder, {})
        with _service(request, runtime) as service:
            ailment = service.ailment()
    return broken(ailment) if ailment else held("both models registered, answered as before")


# ---------------------------------------------------------------- what came of it


def _refused(answer: Answer) -> EdgeFound:
    reason = f"the web service does not answer the plain question: {answer}"
    nothing = Measurement(value=None, n=0, method=reason)
    return EdgeFound(metrics={FAILURES: nothing}, notes=[reason])


def _report(request: EdgeRequest) -> EdgeFound:
    import pandas as pd  # half a second of CPU, which the process that is killed does not need

    rows = request.journal.rows()
    asked = [row for row in rows if row.result is not Result.NOT_ASKED]
    columns = {"passed": [row.passed for row in asked]}
    frame = pd.DataFrame([row.model_dump(mode="json") for row in asked]).assign(**columns)
    frame.to_parquet(request.frames / FRAME)
    failed = [row for row in asked if not row.passed]
    gaps = [row.case for row in asked if row.result is Result.GAP]
    notes = [f"{row.case}: expected {row.expected}; got {row.got}" for row in failed]
    notes += [f"{row.case}: not asked: {row.got}" for row in rows if row not in asked]
    notes += [f"{_GAPS_NOTE} ({FRAME} says what happens): {'; '.join(gaps)}"] if gaps else []
    method = (
        "cases in which Foundry Local's web service broke a promise, or the plain question was not "
        "answered as before afterwards; known gaps of the service are notes"
    )
    measured = Measurement(value=len(failed), n=len(asked), method=method)
    return EdgeFound(metrics={FAILURES: measured}, notes=notes)
