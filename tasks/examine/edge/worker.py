"""A process that loads one folder and answers, or dies of it: `worker.py FOLDER PATIENCE_S MODE`.

Mode `answer` prints one JSON line, {"answer": tokens} or {"refused": words}; mode `endless`
prints `generating`, then generates until it is killed. Whether that is right, `folder_cases.py`
says. Light: a damaged folder costs one of these.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # would bring pydantic and tokenizers along
    from tasks.examine.edge.case import Engine

ANSWER, ENDLESS = "answer", "endless"
_PROMPT = (1, 2, 3, 4)


def main(folder: Path, patience_s: float, mode: str) -> None:
    """Load the folder and answer once, or without end."""
    # Ends the process even while the engine holds the GIL, which no thread of ours could.
    faulthandler.dump_traceback_later(patience_s, exit=True)
    threading.Thread(target=_leave_when_stdin_ends, daemon=True).start()
    if mode == ENDLESS:
        _generate_without_end(folder)
    print(json.dumps(_answer(folder)), flush=True)
    os._exit(0)


def _answer(folder: Path) -> dict[str, object]:
    from tasks.examine.edge.raw import RawEngine

    try:
        engine = RawEngine(folder)
        engine.render('[{"role": "user", "content": "Hello"}]')
        engine.encode("Hello")
        return {"answer": first_ranking(engine)}
    except Exception as problem:  # noqa: BLE001  (whatever it is, it is what the case asks for)
        return {"refused": f"{type(problem).__name__}: {problem}"}


def first_ranking(engine: Engine) -> list[int]:
    """Give the engine's best tokens after a fixed prompt, best first."""
    session = engine.session(len(_PROMPT) + 1)
    session.append(_PROMPT)
    return session.ranking()


def _generate_without_end(folder: Path) -> NoReturn:
    from tasks.examine.edge.raw import RawEngine

    engine = RawEngine(folder)
    length = min(engine.context_length, 256)
    print("generating", flush=True)
    while True:
        session = engine.session(length, min_length=length)
        session.append(_PROMPT)
        for _ in range(length - len(_PROMPT)):
            session.next()


def _leave_when_stdin_ends() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
