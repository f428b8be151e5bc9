"""Requests by the rules that come side by side, in pieces, or from clients that go away.

Greedy answers of one model on one machine are equal, so each is held against the same request
alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tasks.foundry.edge.case import Case, Found, broken, held, held_if, not_asked
from tasks.foundry.edge.service import CHAT, Answer, Body, Service, as_bytes, as_json

SIDE_BY_SIDE = 4
_ROUNDS = 2
_LEFT_STREAMS = 4
_LONG_ANSWER = 64


def traffic() -> list[Case]:
    """Give the cases of right requests in unusual ways."""
    same = "the answer of the plain question"
    return [
        Case("temperature 0, twice", "the same answer", _twice, by_variant=True),
        Case("temperature 2", "answered", lambda s: _answered(s.post(s.body(temperature=2)))),
        Case("max_tokens 1", "one token, and the reason that it ended", _one_token),
        Case("content as a list of parts", same, _in_parts),
        Case("body in chunks", same, _chunked),
        Case("stop sequence", "the answer up to it", _stopped),
        Case("stream", "the answer in pieces, a finish_reason, [DONE]", _streamed, by_variant=True),
        Case("two requests on one connection", same, lambda s: _on_one_connection(s, b"")),
        Case(
            "a request after a wrong one on the same connection",
            same,
            lambda s: _on_one_connection(s, b"{"),
        ),
        Case("four requests at once", "the answers of each alone", _at_once, by_variant=True),
        Case("four streams left after the first piece", "the service goes on", _leave_streams),
        Case("client that does not wait for the answer", "the service goes on", _leave_answer),
        Case("half a request, then gone", "the service goes on", _leave_request),
    ]


def _answered(answer: Answer) -> Found:
    return held_if(answer.status == 200, str(answer))


def _alone(service: Service) -> Answer:
    return service.post(service.body())


def _as(expected: Answer, answer: Answer) -> Found:
    same = answer.status == 200 and answer.text == expected.text
    return held_if(same, str(answer) if same else f"{answer}, not {expected.text!r}")


def _twice(service: Service) -> Found:
    return _as(_alone(service), _alone(service))


def _one_token(service: Service) -> Found:
    answer = service.post(service.body(max_tokens=1))
    fits = answer.status == 200 and 0 <= answer.used("completion_tokens") <= 1
    return held_if(fits and answer.finish_reason in ("length", "stop"), str(answer))


def _in_parts(service: Service) -> Found:
    *before, last = service.body()["messages"]
    parts = {"role": "user", "content": [{"type": "text", "text": last["content"]}]}
    return _as(_alone(service), service.post(service.body(messages=[*before, parts])))


def _chunked(service: Service) -> Found:
    whole = as_bytes(service.body())
    with service.connection() as connection:
        pieces: Iterator[bytes] = iter((whole[:20], whole[20:]))
        connection.request("POST", CHAT, pieces, encode_chunked=True)
        response = connection.getresponse()
        answer = Answer(response.status, response.read())
    return _as(_alone(service), answer)


def _stopped(service: Service) -> Found:
    alone = _alone(service).text
    middle = len(alone) // 2
    end = alone[middle : middle + 3]
    if not end.strip():
        return not_asked(f"the plain answer, {alone!r}, has nothing to stop at")
    answer = service.post(service.body(stop=[end]))
    right = alone.partition(end)[0]
    kept = answer.status == 200 and answer.text == right and answer.finish_reason == "stop"
    return held_if(kept, f"{answer}; expected {right!r}, stop")


def _streamed(service: Service) -> Found:
    alone, stream = _alone(service), service.stream(service.body())
    if not (stream.finish_reason and stream.done):
        return broken(str(stream))
    return held_if(
        (stream.text, stream.finish_reason) == (alone.text, alone.finish_reason),
        f"{stream}; in one piece {alone}",
    )


def _on_one_connection(service: Service, first: bytes) -> Found:
    with service.connection() as connection:
        service.send(connection, first or service.body())
        if connection.sock is None:
            return broken("the connection was closed after the first answer")
        return _as(_alone(service), service.send(connection, service.body()))


def _at_once(service: Service) -> Found:
    bodies = [
        service.body(messages=as_json(conversation))
        for conversation in service.conversations[:SIDE_BY_SIDE]
    ]
    bodies = (bodies * SIDE_BY_SIDE)[:SIDE_BY_SIDE]
    alone = [service.post(body).text for body in bodies]
    for _ in range(_ROUNDS):
        with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
            heard = list(threads.map(lambda each: _heard(service, *each), enumerate(bodies)))
        if heard != alone:
            return broken(f"{heard}, not {alone}")
    return held(f"{len(set(alone))} different answers, each as alone")


def _heard(service: Service, number: int, body: Body) -> str:
    """Every other one is a stream."""
    return service.stream(body).text if number % 2 else service.post(body).text


def _leave_streams(service: Service) -> Found:
    room = service.context - service.count(service.asking(None))
    body = service.body(max_tokens=min(_LONG_ANSWER, room))
    streams = [service.glance(body) for _ in range(_LEFT_STREAMS)]
    begun = [stream for stream in streams if stream.events and not stream.error]
    return held_if(len(begun) == len(streams), f"{len(begun)} begun; the last: {streams[-1]}")


def _leave_answer(service: Service) -> Found:
    with service.connection() as connection:
        connection.request("POST", CHAT, as_bytes(service.body()))
    return held("left")


def _leave_request(service: Service) -> Found:
    with service.connection() as connection:
        connection.putrequest("POST", CHAT)
        connection.putheader("Content-Length", "1000")
        connection.endheaders(b'{"mod')
    return held("left")
