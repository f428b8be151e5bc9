"""What every test may use: a home of its own, and where the demo checkpoint is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def ingot_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty INGOT_HOME for one test."""
    home = tmp_path / "ingot-home"
    monkeypatch.setenv("INGOT_HOME", str(home))
    return home


@pytest.fixture(autouse=True, scope="session")
def machine_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests' reservations apart from those of other runs on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INGOT_MACHINE", str(tmp_path_factory.mktemp("machine")))
        yield


@pytest.fixture(scope="session")
def demo_checkpoint() -> Path:
    """Give the checkpoint that Ingot ships."""
    return REPOSITORY / "demo" / "checkpoint"


@pytest.fixture(scope="session")
def demo_questions() -> Path:
    """Give its held-out questions."""
    return REPOSITORY / "demo" / "questions.jsonl"
