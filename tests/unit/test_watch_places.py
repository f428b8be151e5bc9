"""Which folders are looked into, and which are left alone."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from deployments.watch.local import LocalPlace, take_snapshot
from deployments.watch.notices import tell_of_changes
from deployments.watch.sighting import checkpoint_folders, is_unfinished
from tasks.core.errors import InputError
from tests.sample_checkpoint import write_sample_checkpoint


def names(place: LocalPlace) -> list[str]:
    return [str(Path(one.key).relative_to(place.root)) for one in place.look()]


def test_checkpoints_lie_one_or_two_folders_deep(tmp_path: Path) -> None:
    for name in ("one", "two/checkpoint-500", "two/checkpoint-1000", "three/deep/er"):
        write_sample_checkpoint(tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert names(LocalPlace(tmp_path)) == ["one", "two/checkpoint-1000", "two/checkpoint-500"]


def test_release_is_named_after_the_first_folder(tmp_path: Path) -> None:
    write_sample_checkpoint(tmp_path / "my-model" / "checkpoint-500")
    (sighting,) = LocalPlace(tmp_path).look()
    assert sighting.named_after == "my-model"


def test_below_a_checkpoint_none_is_looked_for() -> None:
    files = {"a": {"config.json"}, "a/checkpoint-1": {"config.json"}, "b": {"x"}, "b/c": {"READY"}}
    assert checkpoint_folders(files) == ["a", "b/c"]


def test_what_changes_below_a_checkpoint_is_a_change_of_it(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "a")
    before = take_snapshot(folder).signature
    (folder / "checkpoint-1" / "deep").mkdir(parents=True)
    assert take_snapshot(folder).signature == before
    (folder / "checkpoint-1" / "deep" / "optimizer.pt").write_text("x")
    assert take_snapshot(folder).signature != before


@pytest.mark.parametrize(
    "name",
    [".hidden", "a.partial", "a.tmp", "A.PART", "a.temp", "a.incomplete", "a~", "lost+found",
     "tmp-checkpoint-500", "a.filepart", "a.crdownload", ""],
)  # fmt: skip
def test_unfinished_folders_are_ignored(name: str) -> None:
    assert is_unfinished(name)
    assert checkpoint_folders({name: {"config.json"}, f"a/{name}": {"config.json"}}) == []


@pytest.mark.parametrize("name", ["a", "a.b", "tmp", "partial", "checkpoint-5", "a.partial.v2"])
def test_finished_folders_are_not_ignored(name: str) -> None:
    assert not is_unfinished(name)


def test_link_to_a_folder_is_told_once_and_not_followed(tmp_path: Path) -> None:
    write_sample_checkpoint(tmp_path / "outside")
    landing = tmp_path / "landing"
    landing.mkdir()
    (landing / "latest").symlink_to(tmp_path / "outside")
    told: list[Path] = []
    place = LocalPlace(landing, ignored=told.append)
    assert place.look() == place.look() == []
    assert told == [landing / "latest"]


def test_link_that_leads_round_in_circles_ends(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "landing" / "a")
    (folder / "loop").symlink_to(folder)
    assert len(LocalPlace(tmp_path / "landing").look()) == 1


def test_folder_that_is_a_checkpoint_itself_is_refused(tmp_path: Path) -> None:
    folder = write_sample_checkpoint(tmp_path / "my-model")
    with pytest.raises(InputError, match="itself a checkpoint"):
        LocalPlace(folder).require_fit()
    LocalPlace(tmp_path).require_fit()


def test_watched_folder_that_is_gone_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    place = LocalPlace(tmp_path / "gone")
    with pytest.raises(InputError, match="is not a folder"):
        place.require_fit()
    with pytest.raises(FileNotFoundError):
        place.look()


@pytest.mark.parametrize("poll", [False, True])
def test_notices_come_also_for_a_folder_that_was_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, poll: bool
) -> None:
    monkeypatch.setattr("deployments.watch.notices._RETRY_S", 0.2)
    root, changed, stop = tmp_path / "landing", threading.Event(), threading.Event()
    root.mkdir()
    thread = threading.Thread(
        target=tell_of_changes, args=(root, changed, stop, lambda *_a, **_k: None, poll)
    )
    thread.start()

    def noticed() -> bool:
        """Write until it is noticed: the watch takes a moment to begin."""
        ends = time.monotonic() + 60
        changed.clear()
        while time.monotonic() < ends:
            (root / "a" / "b").mkdir(parents=True, exist_ok=True)
            (root / "a" / "b" / "file").write_text(str(time.monotonic()))
            if changed.wait(0.5):
                return True
        return False

    try:
        assert noticed()
        root.rename(tmp_path / "old")
        root.mkdir()
        time.sleep(3)  # what the rename itself sets off is not meant
        assert noticed()
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()
