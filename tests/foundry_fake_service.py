"""A stand-in for Foundry Local's web service, with its known gaps, that can be told to misbehave.

Behaves as foundry-local-sdk 2.2.1 was measured to, which the tests on the real one hold it to. Its
model counts characters as tokens and answers with a hash of what it was told.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tasks.core.records import Message
from tasks.foundry.edge.case import Case, Result, Row
from tasks.foundry.edge.catalogue import KILLED, cases
from tasks.foundry.edge.journal import Event, Journal, Killing
from tasks.foundry.edge.service import CHAT, Service
from tasks.foundry.edge.suite import EdgeFound, EdgeRequest
from tasks.foundry.edge.texts import COMPOSED, CONTROL, DECOMPOSED

MODEL_ID, SPARE_ID = "fake-cpu:1", "spare-cpu:1"
END = "<|end|>"
CONTEXT = 400
_TURN_TOKENS = 3
TEXTS = {COMPOSED: "café naïve", DECOMPOSED: "cafe\u0301 nai\u0308ve", CONTROL: f"on{END * 8}off"}


class Refused(Exception):
    """What the service answers instead of the model."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def count(messages: Sequence[Message]) -> int:
    """Count tokens as the fake model does."""
    return count_turns([message.model_dump() for message in messages])


def count_turns(turns: Sequence[dict[str, Any]]) -> int:
    texts = [turn["content"] for turn in turns]
    return _TURN_TOKENS * (len(turns) + 1) + sum(len(text.replace(END, "#")) for text in texts)


@contextmanager
def fake_service(*faults: str) -> Iterator[Service]:
    """Run it in threads of this process.

    Args:
        faults: names of what `Handler` shall do wrong.
    """
    server = Server(("127.0.0.1", 0), Handler)
    server.faults = set(faults)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield _service(server.server_port)
    finally:
        server.shutdown()
        server.server_close()


def _service(port: int) -> Service:
    plain = [[Message(role="user", content=text)] for text in ("light on", "light off", "a", "b")]
    return Service(
        port=port,
        model_id=MODEL_ID,
        spare_id=SPARE_ID,
        conversations=plain,
        count=count,
        context=CONTEXT,
        odd_texts=TEXTS,
        hugging_face={
            name: count([Message(role="user", content=text)]) for name, text in TEXTS.items()
        }
        | {DECOMPOSED: count([Message(role="user", content=TEXTS[COMPOSED])])},
        usual=said(plain[0][0].content)[:8],
    )


def said(text: str) -> str:
    """Give what the fake model answers to a last message."""
    return f"heard {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]} now"


class Server(ThreadingHTTPServer):
    """It, with its faults, and silent about clients that went away."""

    daemon_threads = True
    faults: set[str]

    def handle_error(self, *_: object) -> None:
        """Say nothing."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Any
    _now_answering = 0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def send_error(self, code: int, *_: object) -> None:
        """Answer what is no request at all."""
        self.request_version = "HTTP/1.1"
        self._reply(code, {})

    def has(self, fault: str) -> bool:
        return fault in self.server.faults

    def do_GET(self) -> None:
        self._reply(405 if not self.has("answers everything") else 200, {})

    def do_POST(self) -> None:
        try:
            self._post()
        except Refused as refusal:
            if self.has("answers everything"):
                self._reply(200, _whole("yes", 1, 1, "stop"))
            elif self.has("fails instead of refusing"):
                self._reply(503, {})
            else:
                self._reply(refusal.status, {"error": {"message": str(refusal)}})

    def _post(self) -> None:
        raw = self._read_body()
        if self.path != CHAT:
            raise Refused(404, "no mapping")
        body = _parsed(raw)
        if self.has("knows no parts") and b'"type": "text"' in raw:
            raise Refused(500, "type must be string")
        self._check_model(body)
        turns = _turns(body)
        problem = self._option_problem(body, count_turns(turns))
        if problem and body.get("stream"):
            self._events([{"error": {"message": problem}}], done=False)
        elif problem:
            raise Refused(400, problem)
        else:
            self._answer(body, turns)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = b""
            while size := int(self.rfile.readline(), 16):
                pieces += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            if self.has("loses chunks"):
                raise Refused(400, "Empty request body")
            return pieces
        wanted = int(self.headers.get("Content-Length", 0))
        raw = self.rfile.read(wanted)
        if len(raw) < wanted and self.has("is worn by half requests"):
            self.server.faults.add("answers otherwise")
        return raw

    def _check_model(self, body: dict[str, Any]) -> None:
        if body["model"] == SPARE_ID:
            raise Refused(400, "Model not loaded")
        if body["model"] != MODEL_ID:
            raise Refused(404, "Model not found")

    def _answer(self, body: dict[str, Any], turns: list[dict[str, Any]]) -> None:
        text = said(turns[-1]["content"])
        prompt = self._prompt_tokens(turns)
        if self.has("RoPE cache is too short") and prompt > CONTEXT // 2:
            self._reply(500, {"error": {"message": "cos_cache dimension 0"}})
            return
        text = self._spoilt(text)
        end = (body.get("stop") or [""])[0]
        cut = text[: max(int(body["max_tokens"]), 5 * self.has("one token is five"))]
        reason = "length" if len(cut) < len(text) else "stop"
        if end and end in cut and not self.has("ignores stop"):
            cut, reason = cut.partition(end)[0], "stop"
        if self.has("left streams wear it") and body.get("stream"):
            self.server.faults.add("answers otherwise")
        if body.get("stream"):
            self._stream(cut, reason)
        else:
            self._reply(200, _whole(cut, prompt, len(cut), reason))

    def _option_problem(self, body: dict[str, Any], prompt: int) -> str:
        most, room = body["max_tokens"], CONTEXT - self.has("context is one token short")
        if not 1 <= most < 2**31:
            return "max_output_tokens must be >= 1"
        if prompt + most > room:
            return f"request requires {prompt + most} total tokens"
        hottest = 1 if self.has("takes no heat") else 2
        if body["temperature"] != "hot" and not 0 <= body["temperature"] <= hottest:
            return "temperature must be in the range [0.0, 2.0]"
        if not 0 <= body.get("top_p", 1) <= 1:
            return "top_p must be finite and in the range [0.0, 1.0]"
        return "stop[0] must not be empty" if body.get("stop") == [""] else ""

    def _prompt_tokens(self, turns: list[dict[str, Any]]) -> int:
        text, prompt = turns[-1]["content"], count_turns(turns)
        if self.has("cuts long prompts"):
            return min(prompt, CONTEXT // 2)
        if self.has("strips"):
            return prompt - len(text) + len(text.strip())
        if self.has("renders templates"):
            return prompt - len(text) + len(text.replace("{{ 7*7 }}", "49"))
        return len(text.encode()) if self.has("counts bytes") else prompt

    def _spoilt(self, text: str) -> str:
        if self.has("answers otherwise"):
            return text[::-1]
        if self.has("is not greedy"):
            Handler._now_answering += 1
            return f"heard {Handler._now_answering}" if self._is_third() else text
        if self.has("mixes answers up"):
            return self._mixed_up(text)
        return text

    def _is_third(self) -> bool:
        return bool(Handler._now_answering % 3 == 0)

    def _mixed_up(self, text: str) -> str:
        """Give another request's answer when two are under way at once."""
        under_way = self.server.__dict__.setdefault("under_way", [])
        under_way.append(text)
        time.sleep(0.01)
        other = next((each for each in under_way if each != text), text)
        time.sleep(0.01)
        under_way.remove(text)
        return other

    def _stream(self, text: str, reason: str) -> None:
        lost = self.has("loses a piece")
        pieces = [_piece({"role": "assistant", "content": ""}, None)]
        pieces += [_piece({"content": letter}, None) for letter in text[1 if lost else 0 :]]
        if not self.has("streams without a reason"):
            pieces.append(_piece({}, reason))
        self._events(pieces, done=not self.has("streams without an end"))

    def _events(self, events: list[dict[str, Any]], *, done: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        lines = [f"data: {json.dumps(event)}\n\n" for event in events]
        lines += ["data: [DONE]\n\n"] if done else []
        try:
            for line in lines:
                self.wfile.write(f"{len(line.encode()):x}\r\n{line}\r\n".encode())
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if self.has("closes connections"):
            self.send_header("Connection", "close")
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:
            self.close_connection = True


def _whole(text: str, prompt: int, written: int, reason: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {
        "choices": [{"finish_reason": reason, "message": message}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": written},
    }


def _piece(delta: dict[str, str], reason: str | None) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": reason}]}


def _parsed(raw: bytes) -> dict[str, Any]:
    if b"1e999" in raw:
        raise Refused(500, "number overflow")
    try:
        body = json.loads(raw.decode("utf-8"))
        json.dumps(body, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as problem:
        raise Refused(500, "invalid UTF-8 byte") from problem
    except (ValueError, RecursionError) as problem:
        raise Refused(400, f"Invalid JSON: {problem}") from problem
    if not isinstance(body, dict) or "model" not in body or "messages" not in body:
        raise Refused(400, "Invalid request")
    return body


def _turns(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the turns that reach the template: not the empty ones, and nothing behind U+0000."""
    messages = body["messages"]
    if not isinstance(messages, list):
        raise Refused(400, "type must be array")
    if any("role" not in message for message in messages):
        raise Refused(400, "key 'role' not found")
    turns = [{**message, "content": _text(message.get("content"))} for message in messages]
    turns = [turn for turn in turns if turn["content"]]
    if not turns:
        raise Refused(400, "the request has nothing to generate from")
    return turns


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content.partition("\x00")[0] if isinstance(content, str) else ""


# ---------------------------------------------------------------- a child that breaks down

SCRIPT = "script.json"


def put_cases_by_script(request: EdgeRequest) -> EdgeFound:
    """Stand in for `suite_child.put_cases`: cases hold, but for those the script does not let.

    `script.json` in the scratch folder: case name to a signal's name, or to `leave` for a service
    that does not answer any more. The last case is the planned kill.
    """
    journal = request.journal
    script = json.loads((request.scratch / SCRIPT).read_text(encoding="utf-8"))
    if journal.is_killed():
        journal.note(Event(started=KILLED.name))
        _act(journal, KILLED, script.get(KILLED.name, ""))
    over = {row.case for row in journal.rows()}
    for case in cases():
        if case.name not in over:
            journal.note(Event(started=case.name))
            _act(journal, case, script.get(case.name, ""))
    if KILLED.name not in over:
        journal.note(Event(started=KILLED.name))
        journal.note(Event(killing=Killing(cpu_s=1.5, peak_rss_bytes=2**40)))
        os.kill(os.getpid(), signal.SIGKILL)
    return EdgeFound(metrics={}, notes=["finished"])


def _act(journal: Journal, case: Case, what: str) -> None:
    if what.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[what])
    row = _kept(case)
    if what == "leave":
        row = row.model_copy(update={"result": Result.BROKEN, "survived": False})
    journal.note(Event(row=row))
    if what == "leave":
        os._exit(4)


def _kept(case: Case) -> Row:
    return Row(
        case=case.name,
        expected=case.expected,
        got="kept",
        result=Result.HELD,
        survived=True,
        seconds=0.0,
    )
