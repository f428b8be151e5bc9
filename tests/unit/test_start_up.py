"""What starts stays light: help brings no records along, and a flow's process no heavy tool."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {
    *("torch", "transformers", "tokenizers", "safetensors"),
    *("olive", "onnx", "onnxruntime", "onnxruntime_genai", "foundry_local_sdk"),
    *("numpy", "scipy", "pandas", "pyarrow", "matplotlib"),
}


def loaded_by(code: str) -> set[str]:
    """Give the top-level modules that a fresh process has loaded after some code."""
    names = "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    command = [sys.executable, "-c", f"import json, sys\n{code}\n{names}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_needs_neither_records_nor_frames() -> None:
    code = (
        "import contextlib\n"
        "from deployments.command import main\n"
        "sys.argv[1:] = ['--help']\n"
        "with contextlib.suppress(SystemExit):\n"
        "    main()"
    )
    assert not loaded_by(code) & {*HEAVY, "pydantic", "rich", "prefect"}


def test_process_of_a_flow_loads_no_heavy_tool() -> None:
    # What a release imports before its first step; every tool runs in a child of its own.
    code = "import deployments.command, flows.embedded_server, flows.release, flows.supervision"
    found = loaded_by(code)
    assert "prefect" in found
    assert not found & HEAVY


def test_process_that_loads_a_tool_is_caught() -> None:
    assert "numpy" in loaded_by("import numpy") & HEAVY
