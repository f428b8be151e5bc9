"""Hash a checkpoint and do nothing else: `python -m benchmarks.hash_checkpoint RECORD`.

Imports no more than hashing needs, for its time is what a release again is held against.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tasks.core.checkpoint_files import checkpoint_digest

if __name__ == "__main__":
    record = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(checkpoint_digest(Path(record["path"]), record["weight_files"]))
