"""Print what Foundry Local itself lists in an index: `python -m tests.faults.foundry_list INDEX`.

A JSON object, model id to the digest it was registered with; no digest where its files are gone.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from tasks.foundry.runtime import foundry_runtime


def main(index: Path) -> None:
    """Print the list."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        foundry_runtime(index, Path(scratch)) as runtime,
    ):
        found = {model: runtime.find(model) for model in runtime.listed_ids()}
        aliases = {model.rpartition(":")[0] for model in found}
        entries = [entry for alias in aliases for entry in runtime.versions(alias).values()]
        digests = {
            entry.model_id: (entry.digest or "") if entry.is_cached else "" for entry in entries
        }
    sys.stdout.write(json.dumps(digests))
    sys.stdout.flush()
    # Its exit handlers wait for telemetry that is switched off.
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
