"""An address that is shown and kept may hold no secret, wherever one hides in it."""

from __future__ import annotations

import pytest

from tasks.core.addresses import require_plain_address
from tasks.core.errors import InputError


@pytest.mark.parametrize(
    "address",
    [
        "sftp://user:s3cret@host/models",
        "sftp://s3cret@host",
        "sftp://user:s3/cret@host/models",
        "simplecache::sftp://user:s3cret@host/models",
        "s3://bucket/prefix?key=s3cret",
        "s3://bucket/prefix#s3cret",
    ],
)
def test_address_with_more_than_a_place_is_refused_without_being_shown(address: str) -> None:
    with pytest.raises(InputError, match="--watch holds more") as refusal:
        require_plain_address(address, "--watch")
    assert "cret" not in str(refusal.value)


@pytest.mark.parametrize(
    "address",
    ["s3://bucket/prefix", "s3://bucket/me@home/x", "sftp://host:22/models", "http://[::1]:80/x"],
)
def test_address_of_a_place_is_taken(address: str) -> None:
    require_plain_address(address, "--watch")
