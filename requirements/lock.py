"""Pin every dependency with hashes: `python requirements/lock.py` (needs `uv` on the PATH).

Reads the ranges of pyproject.toml and writes, for every system at once and without any address:

    runtime.txt   what Ingot runs on
    cluster.txt   what the extras s3, dask and ray need on top
    dev.txt       what its tests and linters need on top of both
    torch-cpu.txt torch's own CPU build, which is tried first
    cuda.txt      what the registry's Linux build of torch loads; nobody else needs it

The files are installed with `--no-deps`: together they are complete, and the CPU build of torch
must not pull what the CUDA build declares.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = "3.11"

# PyTorch's own CPU wheel for Linux x86-64 and Python 3.11 carries a local version (2.13.0+cpu) and
# is not in the registry's list of hashes. pip takes it for `torch==2.13.0` where it is offered.
TORCH_CPU_WHEEL = "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"

CPU_WHEEL_FITS = (
    "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version == '3.11'"
)

EXTRAS = ("s3", "dask", "ray")

CUDA = re.compile(r"^(nvidia-|cuda-|triton==)")
NAME = re.compile(r"^[a-z0-9][a-z0-9._-]*(?===)")


def compile_pins(*options: str) -> list[str]:
    """Resolve pyproject.toml; gives one block of lines for each package."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", PYTHON]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", *options]
    answer = subprocess.run(command, cwd=HERE.parent, check=True, capture_output=True, text=True)
    return re.split(r"\n(?=[a-z0-9])", answer.stdout.strip())


def with_cpu_wheel(block: str) -> str:
    """Accept torch's CPU wheel beside the registry's wheels."""
    if not block.startswith("torch=="):
        return block
    return f"{block} \\\n    --hash=sha256:{TORCH_CPU_WHEEL}"


def write_pins(name: str, title: str, blocks: list[str]) -> None:
    """Write one requirements file."""
    text = f"# {title}\n# Written by `python requirements/lock.py`.\n" + "\n".join(blocks) + "\n"
    (HERE / name).write_text(text, encoding="utf-8", newline="\n")


def without(blocks: list[str], known: list[str]) -> list[str]:
    """Leave out the packages that are pinned already."""
    names = {NAME.match(block)[0] for block in known}  # type: ignore[index]
    return [block for block in blocks if NAME.match(block)[0] not in names]  # type: ignore[index]


def main() -> None:
    """Write the files."""
    runtime = [with_cpu_wheel(block) for block in compile_pins()]
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    cluster = compile_pins(*extras)
    everything = compile_pins(*extras, "--extra", "dev")
    cuda = [block for block in runtime if CUDA.match(block)]
    write_pins("runtime.txt", "What Ingot runs on.", [b for b in runtime if not CUDA.match(b)])
    on_top = without(cluster, runtime)
    write_pins("cluster.txt", "What s3, dask and ray need on top of runtime.txt.", on_top)
    on_top = without(everything, [*runtime, *cluster])
    write_pins("dev.txt", "What tests and linters need on top of runtime and cluster.", on_top)
    (version,) = (block.split()[0] for block in runtime if block.startswith("torch=="))
    cpu = f"{version}+cpu ; {CPU_WHEEL_FITS} \\\n    --hash=sha256:{TORCH_CPU_WHEEL}"
    write_pins("torch-cpu.txt", "torch's own CPU build, for where pip is offered it.", [cpu])
    write_pins("cuda.txt", "What the registry's Linux build of torch loads.", cuda)


if __name__ == "__main__":
    main()
