"""What crosses to the child that makes the page, and back."""

from __future__ import annotations

from pathlib import Path

from tasks.core.records import Record

PAGE = "report.html"


class PageRequest(Record):
    """Which run to write the page of; the page goes into its folder."""

    folder: Path


class PageSummary(Record):
    """What was written: bytes, and why some plots are not there."""

    size_bytes: int
    without: dict[str, str]
