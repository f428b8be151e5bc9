"""A checkpoint's digest, for `checkpoint.landed`: `python -m deployments.watch.digest DIR`.

The one that admission gives, so that what was announced can be held against what is released.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tasks.checkpoint.admit import Inspection, inspect_checkpoint
from tasks.core.checkpoint_files import checkpoint_digest
from tasks.core.errors import IngotError
from tasks.core.reservations import reserve_reading


def read_checkpoint(folder: Path) -> tuple[Inspection, str]:
    """Check a checkpoint's structure and give its digest; reads every deciding byte once.

    What is timed on this machine meanwhile is not disturbed: the bytes are read after it.

    Raises:
        EnvironmentUnfit: the folder of the machine's reservations cannot be used.
        CheckpointIncomplete: a part is missing or cut off.
        CheckpointRefused: it cannot be released.
        OSError: a file is gone or cannot be read.
    """
    inspection = inspect_checkpoint(folder)
    weights = [shard.path.name for shard in inspection.weights.shards]
    with reserve_reading(step=f"read {folder.name}"):
        return inspection, checkpoint_digest(inspection.folder.path, weights)


def main(arguments: list[str]) -> None:
    """Print the digest of a checkpoint folder, or what is wrong with it."""
    if len(arguments) != 1:
        sys.exit("usage: python -m deployments.watch.digest DIR")
    try:
        print(read_checkpoint(Path(arguments[0]))[1])
    except (IngotError, OSError) as problem:
        sys.exit(str(problem))


if __name__ == "__main__":
    main(sys.argv[1:])
