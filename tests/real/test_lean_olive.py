"""Olive without its evaluator's imports and its hash, in a process that has not imported it yet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

SCRIPT = """
import sys
from pathlib import Path
from tasks.checkpoint.admit import admit_checkpoint
from tasks.variants.lean_olive import import_olive, known_to_olive

run = import_olive()
left_out = [name for name in ("torchmetrics", "matplotlib", "scipy.signal") if name in sys.modules]
assert not left_out, left_out
assert callable(run)

from olive.evaluator.accuracy import AccuracyScore
try:
    AccuracyScore.metric_cls_map["accuracy_score"]()
except RuntimeError as problem:
    assert "torchmetrics was left out" in str(problem)
else:
    raise AssertionError("an evaluation went on without torchmetrics")

from olive.model.config import ModelConfig
checkpoint = admit_checkpoint(Path(sys.argv[1]), name="demo")
config = ModelConfig(type="HfModel", config={"model_path": str(checkpoint.path)})
other = ModelConfig(type="HfModel", config={"model_path": sys.argv[2]})
hashed, other_hashed = config.get_model_identifier(), other.get_model_identifier()
with known_to_olive(checkpoint):
    assert config.get_model_identifier() == checkpoint.digest != hashed
    assert other.get_model_identifier() == other_hashed
assert config.get_model_identifier() == hashed
"""


def test_olive_runs_without_its_evaluator_and_its_hash(
    demo_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(demo_checkpoint), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
