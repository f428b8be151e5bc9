"""Where the benchmarks keep what they make: checkpoints, models, llama.cpp, results.

`INGOT_BENCH`, else `.bench` in the repository, which git ignores. Knows names of folders only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Work:
    """The work folder."""

    root: Path

    @classmethod
    def chosen(cls) -> Work:
        """Give the one that `INGOT_BENCH` names, else `.bench`."""
        return cls(Path(os.environ.get("INGOT_BENCH") or ROOT / ".bench").expanduser().absolute())

    @property
    def results(self) -> Path:
        """What was measured, a pair of files a section."""
        return self.root / "results"

    @property
    def checkpoints(self) -> Path:
        """Random checkpoints by size."""
        return self.root / "checkpoints"

    @property
    def models(self) -> Path:
        """Models that are timed, by the checkpoint they were made of."""
        return self.root / "models"

    @property
    def llama_cpp(self) -> Path:
        """Source and build of llama.cpp."""
        return self.root / "llama.cpp"

    @property
    def logs(self) -> Path:
        """What the measured commands print."""
        return self.root / "logs"

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give an empty folder that is gone afterwards."""
        folder = self.root / "scratch" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
