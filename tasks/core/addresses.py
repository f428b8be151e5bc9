"""Addresses that users give: they are shown, kept in files and handed to processes.

So they may name a place and nothing else; credentials are the environment's.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tasks.core.errors import InputError

# The user's part of any address in it: fsspec takes several, joined by `::`.
_USER = re.compile(r"://[^/?#]*@")


def require_plain_address(address: str, what: str) -> None:
    """Refuse a URL that holds credentials, or may hold some.

    Args:
        address: a URL; a folder's path has none.
        what: was given it, such as `INGOT_SHARED`.

    Raises:
        InputError: it has a user, a password, a query or a fragment; shows none of them.
    """
    parts = urlsplit(address)
    if parts.query or parts.fragment or _USER.search(address) or not _has_port(parts.netloc):
        raise InputError(
            f"{what} holds more than an address",
            expected="a folder, or scheme://place/prefix",
            got=f"a {parts.scheme} URL with a user, a password or a query",
            next_step="leave credentials to the environment, such as AWS_ACCESS_KEY_ID",
        )


def _has_port(netloc: str) -> bool:
    """Tell whether what follows the colon is a port, not a password with a slash in it."""
    after = netloc.rpartition("]")[2].partition(":")[2]
    return not after or after.isdigit()
