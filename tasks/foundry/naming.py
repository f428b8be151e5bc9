"""Names that Foundry Local takes: of a release, and of its model in one precision.

Knows the rule only; which names are taken is the index's business.
"""

from __future__ import annotations

import re

from tasks.core.errors import InputError
from tasks.core.records import Precision

# Foundry Local's own rule; it refuses everything else with code 3. Safe as a file name, too.
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")


def checked_name(name: str) -> str:
    """Give a release's name in lower case, as admission writes it: `Demo` and `demo` are one.

    Raises:
        InputError: Foundry Local would refuse it.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be a name in Foundry Local",
            expected="letters, digits, dot, underscore and hyphen, a letter or digit first",
            next_step="release it under another name",
        )
    return name.lower()


def model_alias(name: str, precision: Precision) -> str:
    """Give `<name>-<precision>-cpu`: every precision is a model of its own to applications.

    Foundry Local takes no alias of one's own: the alias of a model is always its name.
    """
    return f"{checked_name(name)}-{precision}-cpu"
