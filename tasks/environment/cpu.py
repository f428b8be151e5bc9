"""What the processor is and which of its instructions matter to quantised inference.

Reads names and flags; what they are worth is for the measurements to say.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

# Our name: the operating systems' names, underscores dropped (Linux writes avx512_vnni, py-cpuinfo
# avx512vnni too). In the order in which they are shown.
_FEATURES = {
    "AVX2": {"avx2"},
    "AVX512F": {"avx512f"},
    "AVX_VNNI": {"avxvnni"},
    "AVX512_VNNI": {"avx512vnni"},
    "AVX512_BF16": {"avx512bf16"},
    "AMX_INT8": {"amxint8"},
    "AMX_BF16": {"amxbf16"},
    "NEON": {"asimd", "neon"},
    "DOTPROD": {"asimddp"},
    "I8MM": {"i8mm"},
    "SVE": {"sve"},
}
_LINUX_FLAG_KEYS = ("flags", "Features")  # x86, ARM


@dataclass(frozen=True)
class Cpu:
    """The processor as this process may use it.

    Attributes:
        machine: `x86_64`, `arm64`, ... in lower case.
        logical_cores: those this process may run on.
        load_average: running processes over the last minute; None where it is not known.
    """

    model: str
    machine: str
    features: list[str]
    logical_cores: int
    physical_cores: int
    load_average: float | None

    @property
    def is_x86(self) -> bool:
        """Whether AVX2 can be asked for."""
        return self.machine in ("x86_64", "amd64", "x86", "i386", "i686")

    @property
    def is_arm(self) -> bool:
        """Whether it is a 64-bit ARM."""
        return self.machine in ("arm64", "aarch64")


def read_cpu() -> Cpu:
    """Describe this machine's processor."""
    machine = platform.machine().lower()
    model, flags = _read_linux() if sys.platform == "linux" else _read_elsewhere()
    logical = _usable_cores()
    physical = psutil.cpu_count(logical=False) or logical
    return Cpu(
        model=model or platform.processor() or machine,
        machine=machine,
        features=name_features(flags, machine, sys.platform),
        logical_cores=logical,
        physical_cores=min(physical, logical),
        load_average=psutil.getloadavg()[0],
    )


def name_features(flags: Iterable[str], machine: str, system: str) -> list[str]:
    """Translate an operating system's flags into our names, unknown ones dropped."""
    plain = {flag.lower().replace("_", "") for flag in flags}
    if machine in ("arm64", "aarch64"):
        plain.add("neon")  # part of the 64-bit ARM base; Windows and macOS do not list it
        if system == "darwin":
            plain.add("asimddp")  # every Apple M chip has it
    return [name for name, spellings in _FEATURES.items() if spellings & plain]


def parse_linux_cpuinfo(text: str) -> tuple[str, list[str]]:
    """Give model and flags from the first processor of /proc/cpuinfo; ARM names no model."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            fields.setdefault(key.strip(), value.strip())
    flags = next((fields[key] for key in _LINUX_FLAG_KEYS if key in fields), "")
    model = fields.get("model name", "")
    if not model and "CPU part" in fields:
        model = f"ARM implementer {fields.get('CPU implementer')} part {fields['CPU part']}"
    return model, flags.split()


def _read_linux() -> tuple[str, list[str]]:
    # Not with py-cpuinfo, which takes a second here to give the same.
    return parse_linux_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))


def _read_elsewhere() -> tuple[str, list[str]]:
    import cpuinfo

    found = cpuinfo.get_cpu_info()
    return found.get("brand_raw", ""), found.get("flags", [])


def _usable_cores() -> int:
    """Count the cores left to this process; a container or `taskset` may allow fewer."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return psutil.cpu_count() or 1
