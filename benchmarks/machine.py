"""What the figures were measured on: processor, memory, system, versions, state of the sources."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata

import psutil

from benchmarks.places import ROOT
from tasks.core.files import digest_of, sha256_file
from tasks.environment.cpu import read_cpu

GIB = 1024**3
PACKAGES = (
    *("prefect", "olive-ai", "onnxruntime", "onnxruntime-genai", "foundry-local-sdk"),
    *("transformers", "torch"),
)
_SOURCES = ("benchmarks", "flows", "deployments", "tasks")


def machine_in_words() -> str:
    """Name what decides speed."""
    cpu = read_cpu()
    memory = psutil.virtual_memory().total / GIB
    return (
        f"{cpu.model}, {cpu.logical_cores} cores ({', '.join(cpu.features) or 'no vectors known'}),"
        f" {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}"
    )


def versions() -> dict[str, str]:
    """Give the versions of the packages that the figures depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def sources_digest() -> str:
    """Give one digest over the Python files that are measured and that measure.

    The pages' modules are not among them: how a figure is shown does not change it.
    """
    files = (file for name in _SOURCES for file in (ROOT / name).rglob("*.py"))
    shown = {"page.py", "plots.py", "targets.py", "__main__.py"}
    return digest_of(
        (file.relative_to(ROOT).as_posix(), sha256_file(file))
        for file in files
        if not (file.parent.name == "benchmarks" and file.name in shown)
    )


def revision() -> str:
    """Name the commit, and say when the sources are not quite it."""
    try:
        found = _git("describe", "--always", "--abbrev=12")
        # Not of the whole tree: the page that is written after each section is in it.
        changed = _git("status", "--porcelain", "--", *_SOURCES)
    except OSError:
        return "unknown"
    return f"{found}-dirty" if changed else found or "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
