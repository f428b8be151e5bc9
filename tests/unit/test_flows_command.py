"""The command refuses bad input at once, says what to do, and starts nothing heavy for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.command import app

CHECKPOINT = Path(__file__).resolve().parents[2] / "demo" / "checkpoint"


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in ("release", "check", "demo", "list", "show", "chat", "rollback", "olive-config"):
        assert name in shown


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from flows.command import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'prefect', 'torch', 'transformers', 'onnxruntime', 'olive', 'pandas', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_refusal_imports_no_prefect(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from flows.command import app\n"
        f"result = CliRunner().invoke(app, ['release', {str(tmp_path)!r}])\n"
        "print(result.exit_code, 'prefect' in sys.modules)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "2 False"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--block-size", "33"], "block-size"),
        (["--algorithm", "magic"], "algorithm"),
        (["--precision", "int3"], "int3"),
        (["--precision", "fp32"], "fp32"),
        (["--questions", "/nowhere.jsonl"], "nowhere.jsonl"),
        (["--policy", "/nowhere.toml"], "nowhere.toml"),
        (["--name", "two words"], "two words"),
    ],
)
def test_bad_option_is_bad_input_that_is_named(
    ingot_home: Path, arguments: list[str], word: str
) -> None:
    result = CliRunner().invoke(app, ["release", str(CHECKPOINT), *arguments])
    assert result.exit_code == 2
    assert word in result.output
    assert not ingot_home.exists()


def test_missing_questions_say_where_they_were_looked_for(ingot_home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere" / "checkpoint"
    folder.mkdir(parents=True)
    for file in CHECKPOINT.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    result = CliRunner().invoke(app, ["release", str(folder)])
    assert result.exit_code == 2
    assert "questions.jsonl" in result.output
    assert "--questions" in result.output


def test_error_as_json_is_one_document(ingot_home: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["release", str(tmp_path / "nothing"), "--json"])
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert document["error"] == "CheckpointRefused"
    assert document["next_step"]


def test_empty_inventory_says_what_to_do(ingot_home: Path) -> None:
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0
    assert "ingot demo" in result.output


@pytest.mark.parametrize("command", ["show", "chat", "rollback"])
def test_unknown_name_is_bad_input(ingot_home: Path, command: str) -> None:
    result = CliRunner().invoke(app, [command, "nobody"])
    assert result.exit_code == 2
    assert "nobody" in result.output


def test_olive_config_is_json_for_olive(ingot_home: Path) -> None:
    result = CliRunner().invoke(
        app, ["olive-config", str(CHECKPOINT), "--block-size", "128", "--asymmetric"]
    )
    assert result.exit_code == 0, result.output
    config = json.loads(result.stdout)
    assert config["input_model"]["model_path"] == str(CHECKPOINT)
    assert "128" in json.dumps(config["passes"])
