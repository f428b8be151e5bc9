"""The environment check on this machine: the pinned packages and a Foundry Local that starts."""

from __future__ import annotations

import tempfile
from pathlib import Path

import psutil
import pytest

from tasks.core.settings import Settings
from tasks.environment.check import check_environment, require_fit_environment

pytestmark = pytest.mark.real


def test_this_machine_is_fit_and_nothing_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    found = check_environment(Settings(home=tmp_path / "home"))
    require_fit_environment(found)
    assert found.foundry_version == "2.2.1"
    assert "listed 0 local models" in found.foundry_detail
    assert {package.name: package.matches for package in found.packages}["onnxruntime-genai"]
    assert found.ram_available_bytes <= found.ram_total_bytes <= psutil.virtual_memory().total
    assert list(temporary.iterdir()) == []
    assert not (tmp_path / "home").exists()


def test_check_gives_the_same_machine_class_twice(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    first, second = check_environment(settings), check_environment(settings)
    assert first.machine_class == second.machine_class
