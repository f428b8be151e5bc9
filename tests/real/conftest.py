"""What the tests on the real tools share: the demo checkpoint as the stock builder makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examine_subjects import build_folders


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory, demo_checkpoint: Path) -> dict[str, Path]:
    """Give the demo checkpoint's folders by precision; read them, change copies only."""
    jobs = {"fp32": "fp32", "int8": "int8", "int4": "int4", "fp16": "fp16"}
    return build_folders(demo_checkpoint, tmp_path_factory.mktemp("stock"), **jobs)
