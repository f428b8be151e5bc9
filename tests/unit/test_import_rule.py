"""Steps do not import each other and only task.py files know Prefect; and the checks can fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("flows", "tasks", "deployments", "demo")


def run(*command: str, folder: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    # The copy must be found before the checkout, which is installed as an editable package.
    environment = {**os.environ, "PYTHONPATH": str(folder), "NO_COLOR": "1"}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        input=text,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command, "import-linter is not installed beside this Python"
    return run(command, "--no-cache", folder=folder)


def ban_prefect(file: str, text: str) -> subprocess.CompletedProcess[str]:
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251"]
    return run(*ruff, "--stdin-filename", file, "-", folder=ROOT, text=text)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=lambda _, names: [name for name in names if "." in name and name[-3:] != ".py"],
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_no_import_breaks_the_layers(copy: Path) -> None:
    result = lint_imports(copy)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("tasks/environment/bad.py", "from tasks.variants import task", "tasks.variants"),
        ("tasks/core/bad.py", "import tasks.judge", "tasks.judge"),
        ("tasks/report/bad.py", "import flows", "flows"),
        ("flows/bad.py", "import deployments", "deployments"),
        ("tasks/foundry/bad.py", "def late():\n    import tasks.examine", "tasks.examine"),
    ],
)
def test_planted_import_across_the_layers_is_found(
    copy: Path, file: str, line: str, broken: str
) -> None:
    (copy / file).write_text(line + "\n", encoding="utf-8")
    result = lint_imports(copy)
    module = file.removesuffix(".py").replace("/", ".")
    assert result.returncode != 0
    assert f"{module} -> {broken}" in result.stdout


def test_no_module_outside_the_allowed_ones_imports_prefect() -> None:
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "TID251"]
    result = run(*ruff, *PACKAGES, folder=ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("file", ["tasks/environment/bad.py", "tasks/core/bad.py", "demo/bad.py"])
@pytest.mark.parametrize(
    "text",
    [
        "import prefect\n",
        "import prefect.tasks\n",
        "from prefect import task\n",
        "from prefect.cache_policies import CachePolicy\n",
        "def late():\n    import prefect\n",
    ],
)
def test_planted_prefect_import_is_found(file: str, text: str) -> None:
    result = ban_prefect(file, text)
    assert result.returncode != 0
    assert "TID251" in result.stdout


@pytest.mark.parametrize("file", ["tasks/environment/task.py", "flows/release.py"])
def test_prefect_faces_may_import_prefect(file: str) -> None:
    assert ban_prefect(file, "import prefect\n").returncode == 0
