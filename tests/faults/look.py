"""Looking at a home after a fault: what must hold whatever died, and when.

Reads only. Every check gives sentences; none means that it holds.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tasks.core.errors import IngotError
from tasks.core.files import sha256_file
from tasks.core.settings import Settings
from tasks.core.store import MANIFEST, Store
from tasks.foundry import ledger
from tasks.report.load import load_run
from tasks.variants.build import BUILD_TARGETS
from tests.faults.points import Meeting

REPOSITORY = Path(__file__).resolve().parents[2]
DIGEST = re.compile(r"[0-9a-f]{64}")
GONE_WITHIN_S = 30.0


def whatever_died(home: Path) -> list[str]:
    """Check what must hold at any moment at which no process runs."""
    settings = Settings(home=home)
    listed, problems = foundry_lists(settings)
    return [
        *problems,
        *objects_are_whole(settings),
        *models_are_whole(settings),
        *runs_are_whole(settings),
        *ledger_is_right(settings, listed),
    ]


def nothing_left_over(home: Path) -> list[str]:
    """Check that a run which ended has cleared away what killed ones left."""
    left = [
        *home.glob("store/tmp/*"),
        *home.glob("foundry-staging/*"),
        *home.glob("foundry/custom/*/.*"),
        *home.glob("runs/*.partial"),
        *home.glob("ledger/.*"),
    ]
    return [f"left over: {entry.relative_to(home)}" for entry in left]


def objects_are_whole(settings: Settings) -> Iterator[str]:
    """Every object has the bytes that its name promises, and nothing else is there."""
    store, objects = Store(settings.store), settings.store / "objects"
    for entry in objects.iterdir() if objects.is_dir() else ():
        if not DIGEST.fullmatch(entry.name):
            yield f"{entry.name} among the objects of the store"
        elif not store.is_intact(entry.name, deep=True):
            yield f"object {entry.name[:12]} is visible and not whole"


def models_are_whole(settings: Settings) -> Iterator[str]:
    """Every visible model folder has the bytes of its manifest."""
    for folder in settings.foundry.glob("custom/*/[!.]*"):
        name = "/".join(folder.parts[-2:])
        try:
            files = json.loads((folder / MANIFEST).read_text())["files"]
            wrong = [k for k, (_, sha256) in files.items() if sha256_file(folder / k) != sha256]
        except (OSError, ValueError) as problem:
            yield f"model folder {name} is visible and not whole: {problem}"
            continue
        if wrong:
            yield f"model folder {name} is visible with other bytes in {', '.join(wrong)}"


def runs_are_whole(settings: Settings) -> Iterator[str]:
    """Every visible run can be read, and has its page."""
    for folder in settings.runs.glob("*"):
        if folder.name.endswith(".partial"):
            continue
        try:
            run = load_run(folder)
        except IngotError as problem:
            yield f"run {folder.name} is visible and cannot be read: {problem}"
            continue
        missing = {"report.html", "report.md"} - {file.name for file in folder.iterdir()}
        if missing or run.release.run_id != folder.name:
            yield f"run {folder.name} is visible and not whole: no {', '.join(missing)}"


def ledger_is_right(settings: Settings, listed: dict[str, str]) -> Iterator[str]:
    """Every champion is one that Foundry Local has, with the bytes that the ledger says."""
    for name in ledger.names(settings):
        try:
            champion = ledger.champion_of(settings, name)
        except IngotError as problem:
            yield f"the ledger of {name} cannot be read: {problem}"
            continue
        if champion is None:
            yield f"the ledger of {name} is empty"
        elif not Store(settings.store).is_intact(champion.variant, deep=True):
            yield f"the champion {champion.model_id} is not in the store"
        elif listed.get(champion.model_id) != champion.variant:
            yield f"the champion {champion.model_id} is not what Foundry Local has: {listed}"


_known: dict[tuple[str, str], tuple[dict[str, str], list[str]]] = {}


def foundry_lists(settings: Settings) -> tuple[dict[str, str], list[str]]:
    """Give model id to digest as Foundry Local itself lists them, and what is wrong with it.

    Asked in a process of its own, and not again while index and folders are the same.
    """
    if not settings.foundry.is_dir():
        return {}, []
    key = str(settings.foundry), _state_of(settings.foundry)
    if key not in _known:
        command = [sys.executable, "-m", "tests.faults.foundry_list", str(settings.foundry)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            why = done.stderr.strip().splitlines()[-1:]
            _known[key] = {}, [f"Foundry Local cannot read its index: {why}"]
        else:
            listed: dict[str, str] = json.loads(done.stdout)
            missing = [model for model, digest in listed.items() if not digest]
            _known[key] = listed, [f"{model} is listed, its files are gone" for model in missing]
    return _known[key]


def _state_of(folder: Path) -> str:
    parts = [f"{p.relative_to(folder)} {p.stat().st_mtime_ns}" for p in sorted(folder.rglob("*"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def no_process_of(home: Path, expected: frozenset[int] = frozenset()) -> list[str]:
    """Check that no process works in a home any more; waits a while for those that are ending."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (found := _processes_of(home, expected)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"process {pid} is left: {command[:120]}" for pid, command in found.items()]


def _processes_of(home: Path, expected: frozenset[int]) -> dict[int, str]:
    found = {}
    for process in psutil.process_iter(["status"]):
        try:
            ours = process.environ().get("INGOT_HOME") == str(home)
            if ours and process.pid not in expected and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
        except psutil.Error:
            continue
    return found


def nothing_visible_before_it_was_synced(meeting: Meeting) -> list[str]:
    """Check that whatever got its final name was on the disk by then, file and folder."""
    renames = [entry for entry in meeting.entries() if entry["kind"] == "rename"]
    return [
        f"{entry['target']} became visible before {entry['unsynced']} was synced"
        for entry in renames
        if entry["unsynced"]
    ]


def builds_begun(meeting: Meeting) -> dict[str, int]:
    """Count the builds that were begun, by precision."""
    counts: dict[str, int] = {}
    for entry in meeting.entries():
        if entry["kind"] == "start" and entry["role"] in BUILD_TARGETS:
            for precision in entry["subjects"]:
                counts[precision] = counts.get(precision, 0) + 1
    return counts
