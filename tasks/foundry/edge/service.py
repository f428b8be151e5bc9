"""Foundry Local's web service as a careless client calls it: any bytes, any moment.

Calls by the rules go through `tasks/foundry/endpoint.py`. Speaks to 127.0.0.1 only; what an answer
should have been is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import islice
from typing import Any

from tasks.core.records import Message
from tasks.foundry.endpoint import LOCAL_CATALOG
from tasks.foundry.faults import in_plain_words

CHAT = f"{LOCAL_CATALOG}/v1/chat/completions"
ANSWER_TOKENS = 16
PROBE_TOKENS = 8
PATIENCE_S = 300.0  # a service that is silent for longer hangs
GLANCE_S = 5.0
NO_ANSWER = (OSError, HTTPException, ValueError)
_JSON = {"Content-Type": "application/json"}

Body = dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What came back to one request."""

    status: int
    body: bytes

    @property
    def refused(self) -> bool:
        """The client is told that it is at fault."""
        return 400 <= self.status < 500

    @property
    def text(self) -> str:
        """The answer of the model; empty when there is none."""
        return str(self._choice().get("message", {}).get("content") or "")

    @property
    def finish_reason(self) -> str:
        """Why the model ended; empty when it did not answer."""
        return str(self._choice().get("finish_reason") or "")

    @property
    def choices(self) -> int:
        """How many answers there are."""
        return len(self._json().get("choices", []))

    def used(self, what: str) -> int:
        """Give the number of `prompt_tokens` or `completion_tokens`; -1 when it is not said."""
        return int(self._json().get("usage", {}).get(what, -1))

    def __str__(self) -> str:
        """Show the status, and the text or the reason, on one line."""
        if self.status == 200:
            return f"200: {self.text!r}, {self.finish_reason}"
        return f"{self.status}: {self._reason()}"

    def _reason(self) -> str:
        error = self._json().get("error")
        if isinstance(error, dict):
            return in_plain_words(str(error.get("message")))
        return " ".join(self.body.decode("utf-8", "replace").split())

    def _choice(self) -> dict[str, Any]:
        choices = self._json().get("choices") or [{}]
        return dict(choices[0])

    def _json(self) -> dict[str, Any]:
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Stream:
    """What came back to one streamed request.

    Attributes:
        events: payloads after `data: `, as far as they were read.
        refusal: the answer, when it was no stream.
    """

    events: list[str]
    refusal: Answer | None = None

    @property
    def text(self) -> str:
        """All pieces of the answer."""
        return "".join(str(each.get("delta", {}).get("content") or "") for each in self._choices())

    @property
    def finish_reason(self) -> str:
        """The last one that was said; empty when there is none."""
        reasons = [each["finish_reason"] for each in self._choices() if each.get("finish_reason")]
        return str(reasons[-1]) if reasons else ""

    @property
    def done(self) -> bool:
        """The last event is the end mark."""
        return bool(self.events) and self.events[-1] == "[DONE]"

    @property
    def error(self) -> str:
        """The error that stands in an event; empty when there is none."""
        errors = [each["error"] for each in self._objects() if "error" in each]
        return in_plain_words(str(errors[0].get("message"))) if errors else ""

    def __str__(self) -> str:
        """Show it on one line."""
        if self.refusal is not None:
            return str(self.refusal)
        end = f"{self.finish_reason or 'no finish_reason'}, {'' if self.done else 'no '}[DONE]"
        return f"200, a stream: {self.error or repr(self.text)}, {end}"

    def _choices(self) -> Iterator[dict[str, Any]]:
        for each in self._objects():
            yield from each.get("choices", [])

    def _objects(self) -> Iterator[dict[str, Any]]:
        for event in self.events:
            if event != "[DONE]":
                yield json.loads(event)


@dataclass(frozen=True)
class Service:
    """A running web service, the model it serves, and what is asked of it.

    Attributes:
        model_id, spare_id: a loaded model, and one that is registered and not loaded.
        conversations: by the rules; the first is the plain question of all cases.
        count: tokens of a conversation through the model's template, without the service.
        context: tokens of prompt and answer together, at most.
        parameters: weights of the model, for what a long prompt costs.
        odd_texts: texts at the edge of Unicode and of the template, by name.
        hugging_face: tokens that the checkpoint's tokenizer counts for those.
        usual: what the plain question is answered when nothing is wrong, at most PROBE_TOKENS.
    """

    port: int
    model_id: str
    spare_id: str
    conversations: Sequence[Sequence[Message]]
    count: Callable[[Sequence[Message]], int]
    context: int
    parameters: int = 0
    odd_texts: Mapping[str, str] = field(default_factory=dict)
    hugging_face: Mapping[str, int] = field(default_factory=dict)
    usual: str | None = None

    def body(self, text: str | None = None, **changes: Any) -> Body:
        """Give a request by the rules, but for the changes; with another last message if given."""
        return {
            "model": self.model_id,
            "messages": as_json(self.asking(text)),
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0,
            **changes,
        }

    def asking(self, text: str | None) -> list[Message]:
        """Give the plain conversation, with another last message if given."""
        *before, last = self.conversations[0]
        return [*before, last if text is None else Message(role="user", content=text)]

    def tokens(self, text: str) -> int:
        """Count the tokens of the plain conversation with another last message."""
        return self.count(self.asking(text))

    def post(self, body: Body | bytes, path: str = CHAT) -> Answer:
        """Send a request on a connection of its own and wait for the whole answer.

        Raises:
            OSError, HTTPException: there is no answer.
        """
        with self.connection() as connection:
            return self.send(connection, body, path)

    def send(self, connection: HTTPConnection, body: Body | bytes, path: str = CHAT) -> Answer:
        """Send a request on a connection that is there and wait for the whole answer."""
        connection.request("POST", path, body=as_bytes(body), headers=_JSON)
        response = connection.getresponse()
        return Answer(response.status, response.read())

    def stream(self, body: Body) -> Stream:
        """Ask for a stream and read it to its end."""
        with self.connection() as connection:
            response = _ask_for_stream(connection, body)
            return _refusal(response) or Stream(list(_events(response)))

    def glance(self, body: Body) -> Stream:
        """Ask for a stream, read it to the first piece of the answer, and close the connection.

        The first event has no text. The next is not waited for long: tokens that are no text make
        no event, and a random model may write thousands of them.
        """
        with self.connection() as connection:
            response = _ask_for_stream(connection, body)
            return _refusal(response) or Stream(list(_first_events(connection, response)))

    @contextmanager
    def connection(self) -> Iterator[HTTPConnection]:
        """Open a connection and close it at the end of the block, whatever is under way."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        try:
            yield connection
        finally:
            connection.close()

    def probe(self) -> Answer:
        """Ask the plain question, shortly."""
        return self.post(self.body(max_tokens=PROBE_TOKENS))

    def ailment(self) -> str:
        """Say why the plain question is not answered as usual any more; empty when it is."""
        try:
            answer = self.probe()
        except NO_ANSWER as problem:
            return f"no answer to the plain question: {type(problem).__name__}: {problem}"
        if answer.status != 200 or answer.text != self.usual:
            return f"the plain question is answered {answer}, and was {self.usual!r}"
        return ""


def as_json(messages: Sequence[Message]) -> list[Body]:
    """Give a conversation as it stands in a request."""
    return [message.model_dump() for message in messages]


def as_bytes(body: Body | bytes) -> bytes:
    """Give the bytes of a request; half surrogate pairs are escaped and cross whole."""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def _ask_for_stream(connection: HTTPConnection, body: Body) -> HTTPResponse:
    connection.request("POST", CHAT, as_bytes({**body, "stream": True}), _JSON)
    return connection.getresponse()


def _refusal(response: HTTPResponse) -> Stream | None:
    return None if response.status == 200 else Stream([], Answer(response.status, response.read()))


def _events(response: HTTPResponse) -> Iterator[str]:
    while line := response.readline():
        if line.startswith(b"data: "):
            yield line.removeprefix(b"data: ").decode("utf-8", "replace").strip()


def _first_events(connection: HTTPConnection, response: HTTPResponse) -> Iterator[str]:
    events = _events(response)
    yield from islice(events, 1)
    if connection.sock is not None:
        connection.sock.settimeout(GLANCE_S)
    with suppress(TimeoutError):
        yield from islice(events, 1)
