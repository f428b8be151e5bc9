"""The faults that are asked for, side by side: much of their time is spent waiting."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults import table
from tests.faults.warm import prefect_server, release_once
from tests.faults.workshop import Workshop


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", action="store_true", help="write the table of docs/faults.md")
    parser.addoption("--lanes", type=int, default=os.cpu_count(), help="faults side by side")
    parser.addoption(
        "--share", default="1/1", metavar="K/N", help="play every N-th fault only, from the K-th"
    )
    parser.addoption(
        "--warm-home", type=Path, help="folder for the home that is released into once"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep one of N shares; N shares after each other are all faults, whatever K they begin at."""
    asked = re.fullmatch(r"(\d+)/([1-9]\d*)", config.getoption("--share"))
    if asked is None:
        raise pytest.UsageError("--share: expected K/N, such as 3/8")
    part, parts = map(int, asked.groups())
    chosen = [item for at, item in enumerate(items) if at % parts == part % parts]
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen


@pytest.fixture(scope="session")
def workshop(
    tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Workshop]:
    """Release once for real, beside a server that stays; keep the rows of the table."""
    began = time.monotonic()
    folder = tmp_path_factory.mktemp("faults")
    with prefect_server(folder / "prefect") as (api, _):
        warm = pytestconfig.getoption("--warm-home") or folder / "warm"
        shop = Workshop(release_once(warm, api, folder / "prefect"), folder)
        yield shop
    rows_file = folder / "rows.json"
    table.write_rows(rows_file, shop.rows, time.monotonic() - began)
    if pytestconfig.getoption("--fault-table"):
        table.write_page(rows_file)


@pytest.fixture(scope="session")
def played(request: pytest.FixtureRequest, workshop: Workshop) -> Iterator[dict[str, Future[None]]]:
    """Start every scenario that is asked for; gives what each of them comes to."""
    names = [
        item.callspec.params["name"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_nothing_is_lost"
    ]
    with ThreadPoolExecutor(request.config.getoption("--lanes")) as pool:
        futures = {name: pool.submit(workshop.play, name) for name in names}
        yield futures
        for future in futures.values():
            future.cancel()
