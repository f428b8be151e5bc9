"""Importing without the collector leaves it as it was."""

from __future__ import annotations

import gc

import pytest

from tasks.core.imports import collector_off


def test_collector_is_off_inside_and_on_afterwards() -> None:
    with collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_collector_is_on_after_an_import_that_failed() -> None:
    with pytest.raises(ImportError), collector_off():
        import no_such_package  # noqa: F401
    assert gc.isenabled()


def test_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with collector_off():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
