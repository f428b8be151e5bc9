"""Edges of a model folder: damaged, incomplete, and in use when its process is killed.

Every folder is loaded in a process of its own, since a damaged one may end or hang it; what is in
the variant's own folder is never touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import ChildKilled
from tasks.core.store import MANIFEST, Store
from tasks.examine.edge.case import Case, Seen, Subject, shown
from tasks.examine.edge.worker import ANSWER, ENDLESS, first_ranking
from tasks.examine.out_of_memory import is_out_of_memory, lack_of_memory_named

_CONFIG, _TOKENIZER = "genai_config.json", "tokenizer.json"
_COPY_CHUNK = 1 << 24


def folder_cases() -> list[Case]:
    """Give the cases."""
    damages: dict[str, tuple[Callable[[Path], str], int | None]] = {
        "without genai_config.json": (lambda _: _CONFIG, None),
        "with half of genai_config.json": (lambda _: _CONFIG, 2),
        "with half of the graph": (graph_of, 2),
        "without its weights": (weights_of, None),
        "with an empty file of weights": (weights_of, 0),
        "with half of its weights": (weights_of, 2),
        "with half of tokenizer.json": (lambda _: _TOKENIZER, 2),
    }
    return [
        Case("folder that is a whole copy", "loads, and says what the original says", _whole_copy),
        *(
            Case(f"folder {what}", "loading is refused", damaged(choose, part))
            for what, (choose, part) in damages.items()
        ),
        Case(
            "folder with one changed byte in its weights",
            "seen by its digest, because the engine loads it",
            _changed_byte,
        ),
        Case(
            "process killed in mid-generation",
            "the folder is as before, and answers as before",
            _killed,
        ),
    ]


def graph_of(folder: Path) -> str:
    """Give the name of the graph's file."""
    config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    return str(config["model"]["decoder"]["filename"])


def weights_of(folder: Path) -> str:
    """Give the name of the file with the weights: the largest."""
    files = [file for file in folder.iterdir() if file.is_file()]
    return max(files, key=lambda file: (file.stat().st_size, file.name)).name


# ---------------------------------------------------------------- cases


def _whole_copy(subject: Subject) -> Seen:
    with _copy(subject, without="") as copy:
        found = _answer_of(subject, copy)
    return Seen(found == _usual_answer(subject), shown(f"{found}"))


def damaged(choose: Callable[[Path], str], part: int | None) -> Callable[[Subject], Seen]:
    """Make a case of a folder in which one file is gone, or is a part of itself.

    Args:
        choose: gives the file's name for a folder.
        part: 2 keeps half of it, 0 nothing but its name, None not even that.
    """

    def run(subject: Subject) -> Seen:
        name = choose(subject.folder)
        with _copy(subject, without=name) as copy:
            if part is not None:
                size = (subject.folder / name).stat().st_size // part if part else 0
                _copy_bytes(subject.folder / name, copy / name, size)
            found = _answer_of(subject, copy)
        words = str(found).replace(str(copy), "FOLDER")
        return Seen("refused" in found, f"{name}: {shown(words)}")

    return run


def _changed_byte(subject: Subject) -> Seen:
    name = weights_of(subject.folder)
    if not (subject.folder / MANIFEST).is_file():
        return Seen(False, "the folder has no manifest: it is not in the store")
    with _copy(subject, without=name) as copy:
        _copy_bytes(subject.folder / name, copy / name, (subject.folder / name).stat().st_size)
        whole = _is_intact(copy)
        _change_a_byte(copy / name)
        changed = _is_intact(copy)
    return Seen(whole and not changed, f"whole copy intact: {whole}; changed one: {changed}")


def _killed(subject: Subject) -> Seen:
    before = _listing(subject.folder)
    with _worker(subject, subject.folder, ENDLESS) as process:
        assert process.stdout is not None
        began = process.stdout.readline().strip() == "generating"
        # Some tokens later, and in the middle of one as likely as not.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
        ran = process.poll() is None
        process.kill()
    unchanged = _listing(subject.folder) == before
    same = _answer_of(subject, subject.folder) == _usual_answer(subject)
    got = f"generating: {began and ran}; files unchanged: {unchanged}; same answer: {same}"
    return Seen(began and ran and unchanged and same, got)


# ---------------------------------------------------------------- copies


@contextmanager
def _copy(subject: Subject, *, without: str) -> Iterator[Path]:
    """Give a copy of the folder but for one file, named like the original; gone afterwards."""
    home = subject.scratch / "copies"
    copy = home / "objects" / subject.folder.name
    try:
        copy.mkdir(parents=True)
        for file in subject.folder.iterdir():
            if file.name != without:
                _link_or_copy(file, copy / file.name)
        yield copy
    finally:
        # No chmod on the way: a link shares its mode with the store's own file.
        shutil.rmtree(home, ignore_errors=True)


def _link_or_copy(source: Path, target: Path) -> None:
    # Windows: a read-only file cannot be removed, and its links share that attribute.
    if sys.platform != "win32":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    _copy_bytes(source, target, source.stat().st_size)


def _copy_bytes(source: Path, target: Path, size: int) -> None:
    """Write the first bytes of a file to another one, whose mode is a new file's."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while size > 0 and (block := reader.read(min(size, _COPY_CHUNK))):
            writer.write(block)
            size -= len(block)


def _change_a_byte(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)[0]
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte ^ 0x01]))


def _is_intact(copy: Path) -> bool:
    return Store(copy.parents[1]).is_intact(copy.name, deep=True)


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    states = ((file, file.stat()) for file in files)
    return [
        (file.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns)
        for file, state in states
    ]


# ---------------------------------------------------------------- processes


def _answer_of(subject: Subject, folder: Path) -> dict[str, object]:
    """Load a folder elsewhere; gives its answer, why it refused, or how the process ended.

    Raises:
        DoesNotFit: memory ran out there.
        ChildKilled: somebody killed it, most likely for memory.
    """
    with _worker(subject, folder, ANSWER) as process:
        assert process.stdout is not None
        # Not communicate(): it closes the input, which tells the worker that we are gone.
        output = process.stdout.read()
        code = process.wait()
    if sys.platform != "win32" and code == -signal.SIGKILL:
        raise ChildKilled("the process that loads a folder was killed by SIGKILL")
    if code:
        return {"ended with code": code}
    found = dict(json.loads(output.splitlines()[-1]))
    with lack_of_memory_named("cannot load a copy of the folder"):
        if is_out_of_memory(words := RuntimeError(str(found.get("refused", "")))):
            raise words
    return found


def _usual_answer(subject: Subject) -> dict[str, object]:
    """Give what a worker on the variant itself says; made here, because it is the same."""
    return {"answer": first_ranking(subject.engine)}


@contextmanager
def _worker(subject: Subject, folder: Path, mode: str) -> Iterator[subprocess.Popen[str]]:
    """Start a worker, which ends when its patience does, and see it gone."""
    # Before the case's own end, so that a hanging worker fails its case and nothing else.
    module = [sys.executable, "-m", "tasks.examine.edge.worker"]
    with subprocess.Popen(
        [*module, str(folder), str(subject.patience_s / 3), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            yield process
        finally:
            process.kill()
