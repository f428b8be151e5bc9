"""Foundry Local's OpenAI-compatible web service, as an application on this machine calls it.

Speaks to the loopback interface only; nothing here starts or stops the service.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from tasks.core.errors import InputError, ResourceBusy, ToolFailed
from tasks.core.records import Message
from tasks.foundry.faults import in_plain_words

# The bare /v1 serves the public catalog only; measured on 2.2.1, documented nowhere.
LOCAL_CATALOG = "/catalogs/local"
TIMEOUT_S = 600.0
# Busy or broken. 500 is also what the service says of a model whose template or graph fails
# (measured, 2.2.1): ask here only what a chat session has answered, then it is the service's own.
_MAY_HEAL = (429, 500, 502, 503, 504)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# A proxy from the environment would be asked for 127.0.0.1 too.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Endpoint:
    """A running web service.

    Attributes:
        url: scheme, host and port, such as `http://127.0.0.1:40123`.
    """

    url: str

    def __post_init__(self) -> None:
        """Refuse every address that is not this machine's own."""
        host = urllib.parse.urlsplit(self.url).hostname
        if not self.url.startswith("http://") or host not in _LOOPBACK:
            raise InputError(
                f"{self.url} is not a web service on this machine",
                expected="http://127.0.0.1:<port>",
            )

    def model_ids(self) -> list[str]:
        """Give the ids that the service lists."""
        return [str(entry["id"]) for entry in self._call("/v1/models")["data"]]

    def ask(self, model_id: str, messages: Sequence[Message], *, max_tokens: int) -> str:
        """Answer a conversation greedily; the model must be loaded.

        Raises:
            ToolFailed: the service refused the request; the message has its reason.
            ResourceBusy: it did not answer, or with a status of its own trouble (429, 5xx).
        """
        answer = self._call(
            "/v1/chat/completions",
            {
                "model": model_id,
                "messages": [message.model_dump() for message in messages],
                "max_tokens": max_tokens,
                "temperature": 0,
            },
        )
        return str(answer["choices"][0]["message"]["content"] or "")

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310  (loopback only, see __post_init__)
            self.url + LOCAL_CATALOG + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with _DIRECT.open(request, timeout=TIMEOUT_S) as response:
                answer: dict[str, Any] = json.load(response)
                return answer
        except urllib.error.HTTPError as problem:
            kind = ResourceBusy if problem.code in _MAY_HEAL else ToolFailed
            raise kind(
                f"Foundry Local's web service answered {path} with status {problem.code}",
                got=_reason(problem),
            ) from problem
        except (OSError, HTTPException, ValueError) as problem:
            raise ResourceBusy(
                f"Foundry Local's web service at {self.url} gave no answer: {problem}"
            ) from problem


def _reason(problem: urllib.error.HTTPError) -> str:
    try:
        text = problem.read().decode("utf-8", "replace")
    except (OSError, HTTPException) as cut_off:
        return f"{problem.reason} ({cut_off})"
    try:
        message = str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
    kind, separator, words = message.partition(": ")
    return kind + separator + in_plain_words(words)
