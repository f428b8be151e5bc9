"""Make the virtual environment and run Ingot in it: `python make.py demo | up | test | ...`.

Standard library only, because it runs before anything is installed; the Makefile and Windows both
call it. The environment is made again only when the pins change.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
SCRIPTS = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = SCRIPTS / ("python.exe" if os.name == "nt" else "python")
PINS = ROOT / "requirements"
PARTS = ("runtime", "cluster", "dev")  # of what is installed


def run(*command: str | Path, check: bool = True, silent: bool = False) -> int:
    """Run a command in the repository; leave with its exit code if it fails."""
    output = subprocess.DEVNULL if silent else None
    words = [str(part) for part in command]
    code = subprocess.run(words, cwd=ROOT, check=False, stdout=output, stderr=output).returncode
    if check and code:
        sys.exit(code)
    return code


def stamp_of(*files: Path) -> str:
    """Digest of the files that decide what is installed."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def stamp_file(name: str) -> Path:
    """Where it is kept for which files a work was done."""
    return VENV / f".{name}.sha256"


def once(name: str, files: list[Path], work: Callable[[], None]) -> None:
    """Do the work unless it was done for exactly these files."""
    stamp = stamp_file(name)
    wanted = stamp_of(*files)
    if stamp.exists() and stamp.read_text(encoding="ascii") == wanted:
        return
    work()
    stamp.write_text(wanted, encoding="ascii")


def pip(*arguments: str | Path, **options: bool) -> int:
    """Run pip of the virtual environment, quietly and without resolving dependencies.

    `compile_modules` does on all cores what pip would on one.
    """
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--no-compile"]
    command += ["--disable-pip-version-check"]
    return run(*command, "--no-deps", *arguments, **options)


def install(name: str) -> None:
    """Install one pin file: hashes checked, nothing that is not in it."""
    file = PINS / name
    packages = sum(line[:1].isalnum() for line in file.read_text(encoding="utf-8").splitlines())
    print(f"Installing {packages} pinned packages of {name} into .venv ...", flush=True)
    pip("--require-hashes", "--only-binary", ":all:", "-r", file)


def compile_modules() -> None:
    """Compile what is installed, on all cores; files for other Pythons stay.

    Not left to the first import: where Python may write no bytecode (images often forbid it) every
    process of a release would compile its imports again, which takes longer than the release.
    """
    command = [PYTHON, "-m", "compileall", "-q", "-j", "0", VENV, "flows", "tasks", "deployments"]
    run(*command, check=False, silent=True)


def install_torch_for_cpu() -> None:
    """Take torch's CPU build where pip is offered one; runtime.txt then finds torch in place.

    Asked for by itself, because pip prefers a wheel whose hash its index tells, and a folder of
    wheels tells none. Nobody misses it: the registry's build comes with runtime.txt.
    """
    pip("--require-hashes", "-r", PINS / "torch-cpu.txt", check=False, silent=True)


def install_runtime() -> None:
    """Make the virtual environment with all that Ingot runs on."""
    if not PYTHON.exists():
        venv.create(VENV, with_pip=True)
    install_torch_for_cpu()
    install("runtime.txt")
    if run(PYTHON, "-c", "import torch", check=False, silent=True):
        # The registry's build of torch for Linux; no other build needs these.
        install("cuda.txt")
    pip("--no-build-isolation", "--editable", ROOT)


def environment(*, development: bool = False, cluster: bool = False) -> None:
    """Bring the virtual environment up to date with the pins."""
    names = ("torch-cpu.txt", "runtime.txt", "cuda.txt")
    runtime = [*(PINS / name for name in names), ROOT / "pyproject.toml"]
    once("runtime", runtime, install_runtime)
    if development or cluster:
        once("cluster", [*runtime, PINS / "cluster.txt"], lambda: install("cluster.txt"))
    if development:
        once("dev", [*runtime, PINS / "dev.txt"], lambda: install("dev.txt"))
    once("compiled", [stamp for stamp in map(stamp_file, PARTS) if stamp.exists()], compile_modules)


def demo(arguments: list[str]) -> None:
    """Release the demo checkpoint."""
    environment()
    run(SCRIPTS / "ingot", "demo", *arguments)


def up(arguments: list[str]) -> None:
    """Start the server, the worker and the watcher on this machine."""
    environment()
    run(SCRIPTS / "ingot", "up", *arguments)


def down(arguments: list[str]) -> None:
    """Stop them."""
    environment()
    run(SCRIPTS / "ingot", "down", *arguments)


def cluster(_: list[str]) -> None:
    """Add what runs on Dask or Ray and a store on S3 need."""
    environment(cluster=True)


def lint(_: list[str]) -> None:
    """Check style, types and the import rule."""
    environment(development=True)
    run(SCRIPTS / "ruff", "check", ".")
    run(SCRIPTS / "ruff", "format", "--check", ".")
    run(SCRIPTS / "mypy", "--strict")
    run(SCRIPTS / "lint-imports")


def test(arguments: list[str]) -> None:
    """Run every check and every test."""
    lint([])
    # Each file on one of two workers, whose servers and models it shares with the file before.
    workers = ("--numprocesses", "2", "--dist", "loadfile")
    run(PYTHON, "-m", "pytest", *workers, "--durations", "15", *arguments)


def test_faults(arguments: list[str]) -> None:
    """Kill and starve every part, resume, and look at what is left."""
    environment(development=True)
    run(PYTHON, "-m", "pytest", "tests/faults", *arguments)


def test_cluster(arguments: list[str]) -> None:
    """Release on Dask and on Ray, with the store on S3, and compare with this machine alone."""
    environment(development=True)
    run(PYTHON, "-m", "pytest", "tests/cluster", *arguments)


def bench(arguments: list[str]) -> None:
    """Measure against plain tools, llama.cpp, the machine and the promises; write the page."""
    environment(development=True)
    run(PYTHON, "-m", "benchmarks", *arguments)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "up": up,
    "down": down,
    "cluster": cluster,
    "test": test,
    "test-faults": test_faults,
    "test-cluster": test_cluster,
    "bench": bench,
    "lint": lint,
}


def main() -> None:
    """Run the command that is named on the command line."""
    if sys.version_info < (3, 11):  # noqa: UP036  (runs before pip could refuse)
        sys.exit(f"Ingot needs Python 3.11 or newer; this is {sys.version.split()[0]}.")
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: python make.py {' | '.join(COMMANDS)}")
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
