"""The table of docs/faults.md, from the rows that the suite left: `python -m tests.faults.table`.

`pytest tests/faults --fault-table` does both.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cpuinfo
import psutil

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


@dataclass(frozen=True)
class Row:
    """One fault that was planted, and what came of it.

    Attributes:
        seconds: from the restart, or from the fault where nothing was restarted, until the step
            that was hit had ended; None where nothing had to recover.
    """

    fault: str
    point: str
    outcome: str
    seconds: float | None


def write_rows(path: Path, rows: Sequence[Row], seconds: float) -> None:
    """Keep the rows of a session, with where and when it was."""
    machine = f"{psutil.cpu_count()} cores of {cpuinfo.get_cpu_info()['brand_raw']}"
    system = f"{platform.system()}, Python {platform.python_version()}"
    document = {
        "machine": f"{machine}, {system}",
        "date": time.strftime("%Y-%m-%d"),
        "seconds": round(seconds),
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def rendered(rows_file: Path) -> str:
    """Give the table as Markdown."""
    document = json.loads(rows_file.read_text(encoding="utf-8"))
    rows = [Row(**fields) for fields in document["rows"]]
    when = f"{document['seconds']} s; {document['machine']}, {document['date']}; one run"
    lines = [
        f"{len(rows)} faults in {when}.",
        "",
        "| fault | point | outcome | s to recover |",
        "|---|---|---|--:|",
    ]
    for row in rows:
        seconds = "-" if row.seconds is None else f"{row.seconds:.1f}"
        lines.append(f"| {row.fault} | {row.point} | {row.outcome} | {seconds} |")
    return "\n".join(lines)


def write_page(rows_file: Path, page: Path = PAGE) -> None:
    """Put the table in its place in the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = f"{before}{BEGIN}\n{rendered(rows_file)}\n{END}{after}"
    page.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write_page(Path(sys.argv[1]))
