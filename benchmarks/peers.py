"""llama.cpp as a peer: fetched as source, built for this processor, asked for files and speeds.

The only part of the benchmarks that needs a network and a compiler, and only until it is built.
Where either is missing, everything that needs it is not measured, and says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.places import Work
from benchmarks.records import NotMeasured
from benchmarks.runner import python, tell
from tasks.environment.cpu import parse_linux_cpuinfo

# The source package of the Python bindings holds llama.cpp as it was at that release.
PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
F16, Q8_0, Q4_0, Q4_K_M = "F16", "Q8_0", "Q4_0", "Q4_K_M"
TYPES = (F16, Q8_0, Q4_0, Q4_K_M)

_PROGRAMS = ("llama-quantize", "llama-bench")
_SUFFIX = ".exe" if os.name == "nt" else ""
# CMake's option to the flag of /proc/cpuinfo. No AMX: a native build dies of a general protection
# fault in virtual machines that show AMX and do not let it be used (measured, 2026-11).
_OPTIONS = {
    "GGML_SSE42": "sse4_2",
    "GGML_AVX": "avx",
    "GGML_AVX2": "avx2",
    "GGML_BMI2": "bmi2",
    "GGML_FMA": "fma",
    "GGML_F16C": "f16c",
    "GGML_AVX_VNNI": "avx_vnni",
    "GGML_AVX512": "avx512f",
    "GGML_AVX512_VBMI": "avx512_vbmi",
    "GGML_AVX512_VNNI": "avx512_vnni",
    "GGML_AVX512_BF16": "avx512_bf16",
}
# GGML_AVX512 stands for all of these.
_AVX512_NEEDS = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class LlamaCpp:
    """A built llama.cpp."""

    source: Path
    programs: Path

    def program(self, name: str) -> str:
        """Give the path of one of its programs."""
        return str(self.programs / f"{name}{_SUFFIX}")

    def convert(self, checkpoint: Path, target: Path) -> list[str]:
        """Give the command that makes an F16 file of a checkpoint."""
        arguments = (self.source, checkpoint, "--outfile", target, "--outtype", "f16")
        return python("benchmarks.convert_to_gguf", *arguments)

    def quantise(self, source: Path, target: Path, kind: str, threads: int) -> list[str]:
        """Give the command that makes a smaller file of an F16 one."""
        return [self.program("llama-quantize"), str(source), str(target), kind, str(threads)]

    def bench(self, model: Path, threads: int, *tests: object) -> list[str]:
        """Give the command that times one test once; JSON on its standard output."""
        return [
            *(self.program("llama-bench"), "-m", str(model), "-t", str(threads)),
            *("-r", "1", "-o", "json", *map(str, tests)),
        ]


def cpu_options(flags: Sequence[str]) -> dict[str, str]:
    """Give CMake's options for a processor's flags: those that it has, all others off."""
    known = set(flags)
    if not known >= _AVX512_NEEDS:
        known = {flag for flag in known if not flag.startswith("avx512")}
    return {option: "ON" if flag in known else "OFF" for option, flag in _OPTIONS.items()}


def llama_cpp(work: Work) -> LlamaCpp:
    """Give llama.cpp, fetched and built if it is not there yet.

    Raises:
        NotMeasured: it cannot be fetched or built here.
    """
    folder = work.llama_cpp
    source = folder / f"{PACKAGE.replace('-', '_')}-{VERSION}" / "vendor" / "llama.cpp"
    found = LlamaCpp(source, folder / "build" / "bin")
    options = _options()
    stamp = folder / "built.txt"
    wanted = " ".join([VERSION, *options])
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return found
    cmake = _cmake()  # before anything is fetched
    folder.mkdir(parents=True, exist_ok=True)
    if not (source / "CMakeLists.txt").is_file():
        _fetch(folder)
    _build(cmake, source, folder / "build", options)
    for name in _PROGRAMS:
        if not Path(found.program(name)).is_file():
            raise NotMeasured(f"the build of llama.cpp made no {name}")
    stamp.write_text(wanted, encoding="utf-8")
    return found


def _options() -> list[str]:
    off = (
        *("GGML_NATIVE", "GGML_CCACHE", "BUILD_SHARED_LIBS", "LLAMA_BUILD_TESTS"),
        *("LLAMA_BUILD_EXAMPLES", "LLAMA_BUILD_SERVER", "LLAMA_BUILD_APP", "LLAMA_OPENSSL"),
    )
    chosen: Mapping[str, str] = {}
    if sys.platform == "linux":
        _, flags = parse_linux_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        chosen = cpu_options(flags)
    settings = {"CMAKE_BUILD_TYPE": "Release", **dict.fromkeys(off, "OFF"), **chosen}
    return [f"-D{name}={value}" for name, value in settings.items()]


def _fetch(folder: Path) -> None:
    """Download the source package and unpack what is llama.cpp's."""
    tell(f"fetching the source of {PACKAGE} {VERSION}")
    download = (
        *("download", "--quiet", "--no-deps", "--no-binary", PACKAGE),
        *("--dest", folder, f"{PACKAGE}=={VERSION}"),
    )
    _run(python("pip", *download), "its source package cannot be had (no network?)")
    archive = next(folder.glob(f"*{VERSION}.tar.gz"))
    with tarfile.open(archive) as packed:
        wanted = [member for member in packed if "/vendor/llama.cpp/" in member.name]
        packed.extractall(folder, wanted, filter="data")


def _cmake() -> str:
    found = shutil.which("cmake")
    if found is None:
        raise NotMeasured("llama.cpp cannot be built: there is no cmake")
    return found


def _build(cmake: str, source: Path, build: Path, options: Sequence[str]) -> None:
    tell("building llama.cpp: ten minutes of CPU time")
    failed = "it cannot be built (no C++ compiler?)"
    _run([cmake, "-S", str(source), "-B", str(build), *options], failed)
    jobs = str(os.cpu_count() or 1)
    targets = ("--target", *_PROGRAMS, "--config", "Release", "--parallel", jobs)
    _run([cmake, "--build", str(build), *targets], failed)


def _run(command: Sequence[str], failed: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr or done.stdout).strip().splitlines()
        raise NotMeasured(f"llama.cpp: {failed}: {words[-1] if words else done.returncode}")
