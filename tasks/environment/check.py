"""Look at the machine, the packages and the Foundry Local runtime before anything is spent.

Nothing here connects to a network, and nothing stays behind. What a checkpoint needs is the
forecast's business.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from packaging.specifiers import SpecifierSet

from tasks.core.child import run_child
from tasks.core.errors import EnvironmentUnfit, IngotError, ToolMissing, TransientFault
from tasks.core.memory import Memory, read_memory
from tasks.core.records import Environment, PackageVersion
from tasks.core.settings import Settings
from tasks.environment.cpu import Cpu, read_cpu
from tasks.environment.foundry_probe import FoundryFound, FoundryProbe
from tasks.environment.packages import compare_packages, read_pins

log = logging.getLogger(__name__)

GIB = 1024**3
PROBE = "tasks.environment.foundry_probe:probe"
PROBE_DEADLINE_S = 120.0
LOW_RAM_BYTES = 4 * GIB  # a 0.3 B model's INT4 build
LOW_DISK_BYTES = 10 * GIB
_SPEED_PACKAGES = ("onnxruntime", "onnxruntime-genai")
_INT8_INSTRUCTIONS = {"AVX_VNNI", "AVX512_VNNI", "AMX_INT8", "DOTPROD"}


@dataclass(frozen=True)
class FoundryStatus:
    """Whether the runtime came up; `version` is None when it did not, and `detail` says why."""

    version: str | None
    detail: str


@dataclass(frozen=True)
class Machine:
    """Facts about the machine, as far as they can be in the way.

    Attributes:
        home_parent: the nearest folder at or above Ingot's home that exists.
        home_writable: a folder, and this user may write there.
    """

    python: str
    pointer_bits: int
    cpu: Cpu
    memory: Memory
    home_parent: Path
    home_writable: bool
    disk_free_bytes: int


def check_environment(
    settings: Settings, *, say: Callable[[str], None] = lambda _line: None
) -> Environment:
    """Describe this machine; what is wrong with it is in the record, nothing is raised for it.

    Raises:
        ToolMissing: it cannot be told which packages are needed.
        TransientFault: Foundry Local was killed or did not answer in time, see `probe_foundry`.
    """
    say("reading packages")
    pins = read_pins()
    packages = compare_packages(pins)
    say("reading CPU, memory, disk")
    machine = read_machine(settings)
    say("starting Foundry Local")
    foundry = probe_foundry()
    problems = find_problems(machine, pins.python, packages, foundry)
    for problem in problems:
        log.warning("unfit: %s", problem)
    return Environment(
        python=machine.python,
        platform=platform.platform(),
        cpu_model=machine.cpu.model,
        cpu_features=machine.cpu.features,
        logical_cores=machine.cpu.logical_cores,
        physical_cores=machine.cpu.physical_cores,
        ram_total_bytes=machine.memory.total_bytes,
        ram_available_bytes=machine.memory.available_bytes,
        disk_free_bytes=machine.disk_free_bytes,
        packages=packages,
        foundry_version=foundry.version,
        foundry_detail=foundry.detail,
        machine_class=machine_class(machine.cpu, packages),
        problems=problems,
        warnings=find_warnings(machine),
    )


def require_fit_environment(environment: Environment) -> None:
    """Refuse a machine with problems.

    Raises:
        ToolMissing: a package or Foundry Local is at fault, perhaps among others.
        EnvironmentUnfit: something else is.
    """
    if not environment.problems:
        return
    wrong = [package for package in environment.packages if not package.matches]
    steps = []
    if wrong:
        pins = " ".join(f'"{package.name}{package.pinned}"' for package in wrong)
        steps.append(f"install the pinned packages (`pip install {pins}`)")
    elif environment.foundry_version is None:
        steps.append("install foundry-local-sdk again (`pip install --force-reinstall`)")
    steps.append("mend what is listed above and run `ingot check` again")
    is_tool = bool(wrong) or environment.foundry_version is None
    kind = ToolMissing if is_tool else EnvironmentUnfit
    raise kind(
        f"this machine cannot make a release: {'; '.join(environment.problems)}",
        next_step=", ".join(steps),
    )


def in_one_line(environment: Environment) -> str:
    """Say what matters most about a machine."""
    fast = [name for name in environment.cpu_features if name in _INT8_INSTRUCTIONS]
    return (
        f"{environment.cpu_model}, {environment.logical_cores} cores"
        f"{' with ' + ', '.join(fast) if fast else ''}, "
        f"{environment.ram_available_bytes / GIB:.1f} of "
        f"{environment.ram_total_bytes / GIB:.1f} GiB RAM free, "
        f"{environment.disk_free_bytes / GIB:.0f} GiB disk free, "
        f"Foundry Local {environment.foundry_version or 'absent'}"
    )


def read_machine(settings: Settings) -> Machine:
    """Collect the facts."""
    parent = nearest_existing(settings.home)
    return Machine(
        python=platform.python_version(),
        pointer_bits=64 if sys.maxsize > 2**32 else 32,
        cpu=read_cpu(),
        memory=read_memory(),
        home_parent=parent,
        home_writable=parent.is_dir() and os.access(parent, os.W_OK | os.X_OK),
        disk_free_bytes=psutil.disk_usage(str(parent)).free,
    )


def nearest_existing(path: Path) -> Path:
    """Give the path itself or the first of its parents that exists."""
    absolute = path.expanduser().absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def probe_foundry(*, deadline_s: float = PROBE_DEADLINE_S) -> FoundryStatus:
    """Start the runtime in a child process on an empty temporary index.

    Raises:
        TransientFault: the child was killed or ran past its deadline, which says nothing about
            the installation.
    """
    with tempfile.TemporaryDirectory(prefix="ingot-check-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        try:
            found, _ = run_child(
                PROBE,
                FoundryProbe(folder=folder / "foundry"),
                FoundryFound,
                log=folder / "probe.log",
                deadline_s=deadline_s,
                # ONNX Runtime keeps a telemetry queue below the user's cache folder.
                environment={"XDG_CACHE_HOME": str(folder / "cache")},
            )
        except TransientFault as problem:
            raise type(problem)(  # the log that the child's error names goes with the folder
                f"Foundry Local could not be tried: {problem.message}",
                next_step="run again when the machine is less busy; if it happens each time look "
                "for out-of-memory kills, then install foundry-local-sdk again",
            ) from problem
        except IngotError as problem:
            return FoundryStatus(None, problem.message)
    return FoundryStatus(
        found.version,
        f"started, listed {found.models} local models and stopped in {found.seconds:.2f} s, "
        "without the public catalogue",
    )


def find_problems(
    machine: Machine, python: SpecifierSet, packages: list[PackageVersion], foundry: FoundryStatus
) -> list[str]:
    """List what keeps this machine from making a release; empty when fit."""
    found = []
    if not python.contains(machine.python, prereleases=True):
        found.append(f"Python {machine.python} runs, {python} is needed")
    if machine.pointer_bits != 64:
        found.append("a 32-bit Python runs, a 64-bit one is needed")
    found += [_wrong_package(package) for package in packages if not package.matches]
    if foundry.version is None:
        found.append(f"Foundry Local does not start: {foundry.detail}")
    if machine.cpu.is_x86 and "AVX2" not in machine.cpu.features:
        found.append(
            f"the CPU ({machine.cpu.model}) has no AVX2: quantised models are not supported on it"
        )
    if not machine.home_writable:
        found.append(f"{machine.home_parent} is no folder that can be written to (INGOT_HOME)")
    return found


def find_warnings(machine: Machine) -> list[str]:
    """List what makes a release slow, tight or noisy without keeping it from being made."""
    found = []
    cpu = machine.cpu
    if (cpu.is_x86 or cpu.is_arm) and not _INT8_INSTRUCTIONS & set(cpu.features):
        wanted = "VNNI" if cpu.is_x86 else "DOTPROD"
        found.append(f"the CPU has no {wanted} instructions: INT4 and INT8 will be slow")
    if machine.memory.available_bytes < LOW_RAM_BYTES:
        found.append(f"only {machine.memory.available_bytes / GIB:.1f} GiB of memory are available")
    if machine.disk_free_bytes < LOW_DISK_BYTES:
        found.append(
            f"only {machine.disk_free_bytes / GIB:.1f} GiB are free below {machine.home_parent}"
        )
    if cpu.load_average is not None and cpu.load_average > cpu.logical_cores:
        found.append(
            f"the machine is busy, load average {cpu.load_average:.1f} on {cpu.logical_cores} "
            "cores: timings will be noisy"
        )
    return found


def machine_class(cpu: Cpu, packages: list[PackageVersion]) -> str:
    """Digest what decides speed: CPU model, instructions, cores and runtime versions."""
    versions = {item.name: item.installed for item in packages if item.name in _SPEED_PACKAGES}
    facts = {
        "model": cpu.model,
        "machine": cpu.machine,
        "features": sorted(cpu.features),
        "cores": [cpu.logical_cores, cpu.physical_cores],
        "versions": versions,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _wrong_package(package: PackageVersion) -> str:
    if package.installed is None:
        return f"{package.name} is not installed, {package.name}{package.pinned} is needed"
    return f"{package.name} {package.installed} is installed, {package.pinned} is needed"
