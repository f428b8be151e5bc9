"""Children that tokenise need no PyTorch, and importing it is most of what they would import."""

from __future__ import annotations

import os
import sys

_ASKED_FOR = "INGOT_WITHOUT_TORCH"
# For `run_child`; transformers else says in the log that models cannot be loaded.
WITHOUT_TORCH = {_ASKED_FOR: "1", "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1"}


def leave_torch_out_if_asked() -> None:
    """Import transformers as if PyTorch were not installed; whoever wants it later still gets it.

    transformers looks for PyTorch once, when it is imported, and then imports it for a tokenizer
    too; it has no setting against that. 3 of 7 CPU seconds of an examination's imports (2026-11).
    """
    if os.environ.get(_ASKED_FOR) and "torch" not in sys.modules:
        # The import system takes None for "there is none".
        sys.modules["torch"] = None  # type: ignore[assignment]
        try:
            import transformers  # noqa: F401
        finally:
            del sys.modules["torch"]
