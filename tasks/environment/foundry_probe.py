"""Start the Foundry Local runtime for real, look at an empty index, and stop it.

Touches neither the production index nor the public catalogue. `probe` belongs in a child process:
the runtime is native, a singleton, and may take its process with it.
"""

from __future__ import annotations

import time
from pathlib import Path

from tasks.core.records import Record


class FoundryProbe(Record):
    """An empty folder that the runtime may fill."""

    folder: Path


class FoundryFound(Record):
    """What came up: the SDK's version, models in the new index, seconds from start to stop."""

    version: str
    models: int
    seconds: float


def probe(request: FoundryProbe) -> FoundryFound:
    """Initialise the runtime, list the local catalogue and close the runtime again."""
    from foundry_local_sdk import (
        CatalogType,
        Configuration,
        FoundryLocalManager,
        LogLevel,
        __version__,
    )

    started = time.monotonic()
    FoundryLocalManager.initialize(
        Configuration(
            app_name="ingot-check",
            app_data_dir=str(request.folder / "data"),
            model_cache_dir=str(request.folder / "models"),
            log_level=LogLevel.WARNING,
            disable_nonessential_telemetry=True,
        )
    )
    manager = FoundryLocalManager.instance
    try:
        models = len(manager.get_catalog(CatalogType.LOCAL).list_models())
    finally:
        manager.close()
    return FoundryFound(version=__version__, models=models, seconds=time.monotonic() - started)
