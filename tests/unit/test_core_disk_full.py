"""A full disk: a clear word, nothing half-made, and the next try goes through.

The disk of these tests is one that takes no file beyond a few kilobytes, which needs no rights; a
really full one is in the fault suite.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import DoesNotFit, ToolFailed, named
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.foundry.ledger import history_of
from tasks.report import write
from tests.golden.sample_release import sample_release

unix_only = pytest.mark.skipif(os.name == "nt", reason="Windows bounds no file sizes")

BOUNDED = """
import resource, sys
from pathlib import Path
from tasks.core.errors import named
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
def attempt(function, *arguments):
    try:
        function(*arguments)
    except Exception as problem:
        print(type(named(problem)).__name__)
    else:
        print("done")
"""

PUBLISH = """
from tasks.core.store import Store
def publish(root):
    store = Store(root)
    with store.staging() as staged:
        for turn in range(200):
            (staged / f"{turn}").touch()
        store.publish(staged)
attempt(publish, Path(sys.argv[1]))
"""

CROWN = """
from datetime import UTC, datetime
from tasks.core.settings import Settings
from tasks.foundry.ledger import Champion, append_champion
def crown(home):
    for turn in range(50):
        champion = Champion(
            model_id=f"demo-int4-cpu:{turn}", variant="a" * 64, checkpoint="b" * 64,
            precision="int4", run_id="r", since=datetime.now(UTC), size_bytes=1,
        )
        append_champion(Settings(home=home), "demo", champion)
attempt(crown, Path(sys.argv[1]))
"""

REPORT = """
from tasks.core.settings import Settings
from tasks.report import write
from tests.golden.sample_release import sample_release
write.write_page = lambda *_: None
attempt(lambda home: write.write_report(sample_release(), [], settings=Settings(home=home)),
        Path(sys.argv[1]))
"""


def on_a_full_disk(code: str, home: Path, *, bounded: bool = True) -> str:
    prelude = BOUNDED if bounded else BOUNDED.replace("resource.setrlimit", "(lambda *_: None)")
    done = subprocess.run(
        [sys.executable, "-c", prelude + code, str(home)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@unix_only
def test_object_that_does_not_fit_is_not_in_the_store(tmp_path: Path) -> None:
    assert on_a_full_disk(PUBLISH, tmp_path) == "DoesNotFit"
    assert {entry.name for entry in tmp_path.rglob("*")} == {"tmp", "locks", "mutex"}
    assert on_a_full_disk(PUBLISH, tmp_path, bounded=False) == "done"
    (digest,) = [entry.name for entry in (tmp_path / "objects").iterdir()]
    assert Store(tmp_path).is_intact(digest, deep=True)


@unix_only
def test_champion_that_does_not_fit_leaves_the_ledger_as_it_was(tmp_path: Path) -> None:
    assert on_a_full_disk(CROWN, tmp_path) == "DoesNotFit"
    champions = history_of(Settings(home=tmp_path), "demo")
    assert 0 < len(champions) < 50
    assert [entry.name for entry in (tmp_path / "ledger").iterdir()] == ["demo.json"]
    assert on_a_full_disk(CROWN, tmp_path, bounded=False) == "done"
    assert history_of(Settings(home=tmp_path), "demo")[: len(champions)] == champions


@unix_only
def test_run_that_does_not_fit_is_not_among_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(write, "write_page", lambda *_: None)
    assert on_a_full_disk(REPORT, tmp_path) == "DoesNotFit"
    assert list(settings.runs.iterdir()) == []
    folder = write.write_report(sample_release(), [], settings=settings)
    assert (folder / "metrics.json").is_file()


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        OSError("131072 requested and 0 written"),  # numpy's tofile
        RuntimeError("I/O error: No space left on device (os error 28)"),  # safetensors
        ValueError("There is not enough space on the disk."),
    ],
)
def test_full_disk_is_recognised_however_a_library_says_it(problem: Exception) -> None:
    assert type(named(problem)) is DoesNotFit


def test_full_disk_is_recognised_as_the_cause_of_another_error() -> None:
    problem = RuntimeError("could not save the model")
    problem.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert type(named(problem)) is DoesNotFit


@pytest.mark.parametrize("text", ["128 requested", "space", "os error 2", "bad shape"])
def test_other_faults_are_no_full_disk(text: str) -> None:
    assert type(named(RuntimeError(text))) is ToolFailed
