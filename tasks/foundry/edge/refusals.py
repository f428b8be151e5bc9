"""Requests that are wrong in themselves: a client must be told so, whatever the model is like.

All as measured on foundry-local-sdk 2.2.1 (2026-11). One request beyond these ends the service's
process with a segmentation fault: arrays nested 50,000 deep; 20,000 are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tasks.foundry.edge.case import Case, Found, broken, held, held_if, known_gap
from tasks.foundry.edge.service import CHAT, Body, Service
from tasks.foundry.endpoint import LOCAL_CATALOG

REFUSED = "refused with a status of 400 to 499"
_DEEP = 1000
_BEYOND_INT = 2**31
_MARK = "MARK"

Make = Callable[[Service], Body | bytes]


def refusals() -> list[Case]:
    """Give the cases of wrong requests."""
    return [*_bodies(), *_messages(), *_options(), *_addresses()]


def refused(
    name: str, make: Make, *, gap: str = "", statuses: tuple[int, ...] = (200,), path: str = CHAT
) -> Case:
    """Give a case whose request must be refused.

    Args:
        name: what is sent.
        make: gives the request.
        gap: what happens instead, where something does.
        statuses: by which that is known.
        path: where it is sent to.
    """

    def act(service: Service) -> Found:
        answer = service.post(make(service), path)
        if answer.refused:
            return held(str(answer))
        return known_gap(str(answer)) if gap and answer.status in statuses else broken(str(answer))

    return Case(name, REFUSED, act, gap=gap)


def changed(**changes: Any) -> Make:
    """Send the plain request with other fields."""
    return lambda service: service.body(**changes)


def without(key: str) -> Make:
    """Send it without one."""
    return lambda service: {k: v for k, v in service.body().items() if k != key}


def _raw(body: bytes) -> Make:
    return lambda _: body


def _in_text(raw: bytes) -> Make:
    """Put bytes as they are into the last message."""
    return lambda service: (
        json.dumps(service.body(f"on{_MARK}off")).encode().replace(_MARK.encode(), raw)
    )


def _said_by(message: Body) -> Make:
    """Send one message that is not by the rules."""
    return lambda service: service.body(messages=[message])


def _bodies() -> list[Case]:
    nested = b'{"messages":' + b"[" * _DEEP + b"]" * _DEEP + b"}"
    return [
        refused("empty body", _raw(b"")),
        refused("malformed JSON", _raw(b'{"model": "')),
        refused("JSON that is no object", _raw(b"[]")),
        refused(f"arrays nested {_DEEP:,} deep", _raw(nested)),
        refused("U+0000 as a byte", _in_text(b"\x00")),
        refused("first half of a surrogate pair", lambda s: s.body("on \ud800 off")),
        refused("second half of a surrogate pair", lambda s: s.body("on \udc00 off")),
        refused(
            "bytes that are not UTF-8",
            _in_text(b"\xff\xfe"),
            gap="status 500",
            statuses=(500,),
        ),
        refused(
            "number beyond a float",
            lambda s: json.dumps(s.body(temperature=_MARK)).replace(f'"{_MARK}"', "1e999").encode(),
            gap="status 500",
            statuses=(500,),
        ),
    ]


def _messages() -> list[Case]:
    return [
        refused("no messages key", without("messages")),
        refused("empty messages list", changed(messages=[])),
        refused("messages as text", changed(messages="on")),
        refused("content null", _said_by({"role": "user", "content": None})),
        refused("content as a number", _said_by({"role": "user", "content": 5})),
        refused("no content key", _said_by({"role": "user"})),
        refused("no role key", _said_by({"content": "on"})),
        refused(
            "unknown role",
            _said_by({"role": "wizard", "content": "on"}),
            gap="rendered as it stands, with status 500 where the template refuses it",
            statuses=(200, 500),
        ),
    ]


def _options() -> list[Case]:
    ignored = "ignored, the default applies"
    return [
        refused("max_tokens 0", changed(max_tokens=0)),
        refused("max_tokens -1", changed(max_tokens=-1)),
        refused("max_tokens of the largest int", changed(max_tokens=_BEYOND_INT - 1)),
        refused("max_tokens beyond an int", changed(max_tokens=_BEYOND_INT)),
        refused("temperature -1", changed(temperature=-1)),
        refused("temperature 3", changed(temperature=3)),
        refused("temperature as text", changed(temperature="hot"), gap=ignored),
        refused("top_p 2", changed(top_p=2)),
        refused("top_p -1", changed(top_p=-1)),
        refused("top_k -1", changed(top_k=-1), gap=ignored),
        refused("empty stop sequence", changed(stop=[""])),
        _two_answers(),
        _streamed_refusal("max_tokens 0, streamed", lambda s: s.body(max_tokens=0)),
    ]


def _two_answers() -> Case:
    def act(service: Service) -> Found:
        answer = service.post(service.body(n=2))
        if answer.refused or answer.choices == 2:
            return held(str(answer))
        alone = answer.status == 200 and answer.choices == 1
        return known_gap("one answer") if alone else broken(str(answer))

    return Case("n 2", "two answers, or refused", act, gap="ignored, one answer comes")


def _streamed_refusal(name: str, make: Callable[[Service], Body]) -> Case:
    def act(service: Service) -> Found:
        stream = service.stream(make(service))
        if stream.refusal is not None:
            return held_if(stream.refusal.refused, str(stream))
        told = stream.error and not stream.text and not stream.done
        return known_gap(str(stream)) if told else broken(str(stream))

    gap = "status 200, then an event with the error, and no [DONE]"
    return Case(name, REFUSED, act, gap=gap)


def over_long_streamed(make: Callable[[Service], Body]) -> Case:
    """Give the case of a stream that is asked for with too long a prompt."""
    return _streamed_refusal("prompt of ten contexts, streamed", make)


def _addresses() -> list[Case]:
    return [
        refused("no model key", without("model")),
        refused("unknown model", changed(model="nobody-cpu:1")),
        refused("model by its alias", lambda s: s.body(model=s.model_id.partition(":")[0])),
        refused("model that is not loaded", lambda s: s.body(model=s.spare_id)),
        refused("unknown path", changed(), path=f"{LOCAL_CATALOG}/v1/nothing"),
        Case("GET where POST belongs", REFUSED, _get),
        Case("bytes that are not HTTP", f"{REFUSED}, or the connection closed", _not_http),
    ]


def _get(service: Service) -> Found:
    with service.connection() as connection:
        connection.request("GET", CHAT)
        status = connection.getresponse().status
    return held_if(400 <= status < 500, f"{status}")


def _not_http(service: Service) -> Found:
    with service.connection() as connection:
        connection.connect()
        connection.sock.sendall(b"GOOD MORNING\r\n\r\n")
        line = connection.sock.recv(1024).split(b"\r\n")[0].decode("ascii", "replace")
    status = line.partition(" ")[2][:3]
    return held_if(not line or status.startswith("4"), line or "closed")
