"""The command's help and refusals come at once, and one watcher keeps another out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deployments.watch.sole import sole_watcher
from tasks.core.errors import ResourceBusy
from tasks.core.settings import Settings

HEAVY = "{'prefect', 'watchfiles', 'fsspec', 'numpy', 'httpx'}"


def loaded_after(*arguments: str) -> str:
    code = (
        "import sys, typer\n"
        "from typer.testing import CliRunner\n"
        "from deployments.watch.command import watch\n"
        "app = typer.Typer()\n"
        "app.command()(watch)\n"
        f"result = CliRunner().invoke(app, {list(arguments)!r})\n"
        f"print(result.exit_code, sorted({HEAVY} & set(sys.modules)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return answer.stdout.strip()


def test_help_imports_nothing_heavy() -> None:
    assert loaded_after("--help") == "0 []"


def test_refusal_imports_no_prefect(tmp_path: Path) -> None:
    answer = loaded_after(str(tmp_path / "nowhere"))
    assert answer.startswith("2 ")
    assert "prefect" not in answer


def test_url_with_a_secret_is_refused_and_not_shown() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "deployments.command", "watch", "sftp://user:s3cret@host/models"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 2, answer.stderr
    assert "a watched URL holds more than an address" in answer.stderr
    assert "s3cret" not in answer.stdout + answer.stderr


def test_second_watcher_of_a_home_or_of_a_place_is_kept_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_MACHINE", str(tmp_path / "machine"))
    one, other = Settings(home=tmp_path / "one"), Settings(home=tmp_path / "other")
    with sole_watcher(one, ["/landing/a"]):
        with pytest.raises(ResourceBusy, match="one"), sole_watcher(one, ["/landing/b"]):
            pass
        with pytest.raises(ResourceBusy, match="/landing/a"), sole_watcher(other, ["/landing/a"]):
            pass
        with sole_watcher(other, ["/landing/b"]):
            pass
    with sole_watcher(other, ["/landing/a"]):
        pass
