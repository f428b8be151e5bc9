"""Tokenising without PyTorch: the same tokens, and PyTorch is neither imported nor lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks.core.without_torch import WITHOUT_TORCH

pytestmark = pytest.mark.real

LOOK = """
import json, sys
from tasks.core.without_torch import leave_torch_out_if_asked
leave_torch_out_if_asked()
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], local_files_only=True)
turns = [{"role": "user", "content": "dim the lamp in the attic, s'il te pla\\u00eet \\U0001f4a1"}]
text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
before = "torch" in sys.modules
import torch
print(json.dumps([text, tokenizer.encode(text), before, torch.ones(2).sum().item()]))
"""


def looked(checkpoint: Path, **environment: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(checkpoint)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PyTorch was not found" not in done.stderr
    return list(json.loads(done.stdout))


def test_tokens_are_those_of_a_process_with_torch(demo_checkpoint: Path) -> None:
    text, tokens, torch_came_along, total = looked(demo_checkpoint, **WITHOUT_TORCH)
    assert not torch_came_along
    assert total == 2
    assert looked(demo_checkpoint) == [text, tokens, True, 2]
