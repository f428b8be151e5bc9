"""An S3 server on loopback, moto's, and the environment by which a client finds it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import httpx
import pytest
from moto.server import ThreadedMotoServer

SECRET = "a-secret-that-nobody-may-see"


@contextmanager
def s3_server(*buckets: str) -> Iterator[dict[str, str]]:
    """Run the server with these buckets in it; gives the variables that name it."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for bucket in buckets:
            httpx.put(f"http://{host}:{port}/{bucket}", timeout=60).raise_for_status()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "ingot",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.stop()


@contextmanager
def s3_named(environment: dict[str, str]) -> Iterator[None]:
    """Name a server in this process's environment, to clients that are made from now on.

    fsspec keeps one client for all that ask alike, and does not look at the environment: without
    this, whoever asks next gets a client of the server before, which is gone.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        yield
    fsspec.get_filesystem_class("s3").clear_instance_cache()
