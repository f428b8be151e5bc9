"""When a checkpoint has landed: not before it is whole and quiet, and then once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.watch.announcement import BROKEN, LANDED
from deployments.watch.digest import read_checkpoint
from tests.landing_scene import Scene, set_mtime, touch_later
from tests.sample_checkpoint import (
    change_header,
    change_json,
    write_json,
    write_sample_checkpoint,
    write_sharded_checkpoint,
)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give a sound checkpoint outside the watched folder, in two shards."""
    return write_sharded_checkpoint(tmp_path / "source")


def copied(file: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True, parents=True)
    shutil.copyfile(file, folder / file.name)


def landed_once(scene: Scene, now: float) -> bool:
    news = scene.at(now)
    return [one.event for one in news] == [LANDED]


# ------------------------------------------------------------------ whole and quiet


def test_whole_folder_lands_when_it_has_been_quiet(scene: Scene) -> None:
    write_sample_checkpoint(scene.landing / "my-model")
    assert scene.at(0) == []
    assert scene.at(4.9) == []
    (news,) = scene.at(5.0)
    assert news.payload["path"] == str(scene.landing / "my-model")
    assert news.payload["name"] == "my-model"
    assert news.resource["prefect.resource.id"] == f"checkpoint.{news.payload['digest'][:16]}"
    assert news.resource["prefect.resource.name"] == "my-model"


def test_what_is_announced_is_the_digest_of_admission(scene: Scene) -> None:
    from tasks.checkpoint.admit import admit_checkpoint

    folder = write_sharded_checkpoint(scene.landing / "my-model")
    scene.at(0)
    (news,) = scene.at(5)
    assert news.digest == news.payload["digest"] == admit_checkpoint(folder).digest


def test_slow_copy_shard_by_shard_lands_once_after_the_last_byte(
    scene: Scene, source: Path
) -> None:
    folder = scene.landing / "my-model"
    now = 0.0
    for file in sorted(source.iterdir()):
        copied(file, folder)
        for _ in range(3):
            assert scene.at(now) == []
            now += 1.5
    last = now - 4.5
    assert not landed_once(scene, last + 4.9)
    assert landed_once(scene, last + 5.0)
    scene.deliver()
    assert scene.at(last + 1000) == []


@pytest.mark.parametrize("pause_s", [10, 100])
@pytest.mark.parametrize("order", [sorted, lambda files: sorted(files, reverse=True)])
def test_copy_with_long_pauses_waits_in_whichever_order_files_come(
    scene: Scene, source: Path, order: Callable[..., list[Path]], pause_s: float
) -> None:
    now = 0.0
    needed = [file for file in source.iterdir() if file.name != "generation_config.json"]
    copied(source / "generation_config.json", scene.landing / "my-model")
    for file in order(needed):
        assert scene.at(now) == [], f"landed without {file.name}"
        assert scene.at(now + pause_s - 1) == [], f"landed without {file.name}"
        copied(file, scene.landing / "my-model")
        now += pause_s
    scene.at(now)
    assert landed_once(scene, now + 5)


def test_growing_file_starts_the_quiet_anew(scene: Scene) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    log = folder / "trainer.log"
    for now in range(0, 40, 4):
        log.write_text("x" * (now + 1))
        assert scene.at(now) == []
    assert landed_once(scene, 36 + 5)


def test_change_that_keeps_size_and_time_is_seen(scene: Scene) -> None:
    file = write_sample_checkpoint(scene.landing / "my-model") / "model.safetensors"
    scene.at(0)
    state = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert scene.at(5) == []
    assert landed_once(scene, 10)


@pytest.mark.parametrize("years_from_now", [-50, 10])
def test_times_of_files_do_not_matter(scene: Scene, years_from_now: int) -> None:
    when = time.time() + years_from_now * 365 * 86400
    folder = write_sample_checkpoint(scene.landing / "my-model")
    copied(folder / "config.json", folder / "extra")
    set_mtime(folder, when)
    # After the folder's own times, as when a program goes on with its files: no sign of an end.
    touch_later(folder / "extra" / "config.json")
    scene.at(0)
    assert scene.at(4) == []
    assert landed_once(scene, 5)


# ------------------------------------------------------------------ incomplete


def cut_off(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 100)


INCOMPLETE: dict[str, Callable[[Path], object]] = {
    "no config": lambda f: (f / "config.json").unlink(),
    "no tokenizer": lambda f: (f / "tokenizer.json").unlink(),
    "no tokenizer config": lambda f: (f / "tokenizer_config.json").unlink(),
    "no template": lambda f: (f / "chat_template.jinja").unlink(),
    "no index": lambda f: (f / "model.safetensors.index.json").unlink(),
    "shard missing": lambda f: (f / "model-00002-of-00002.safetensors").unlink(),
    "shard cut off": lambda f: cut_off(f / "model-00001-of-00002.safetensors"),
    "shard cut in its header": lambda f: os.truncate(f / "model-00001-of-00002.safetensors", 100),
    "shard of no bytes": lambda f: os.truncate(f / "model-00001-of-00002.safetensors", 0),
    "config cut off": lambda f: cut_off(f / "config.json"),
    "tokenizer cut off": lambda f: cut_off(f / "tokenizer.json"),
    "index cut off": lambda f: cut_off(f / "model.safetensors.index.json"),
    "file reserved, not filled": lambda f: (f / "tokenizer.json").write_bytes(bytes(900)),
}


@pytest.mark.parametrize("break_it", INCOMPLETE.values(), ids=INCOMPLETE)
def test_incomplete_folder_waits_says_so_once_and_is_given_up_once(
    scene: Scene, source: Path, break_it: Callable[[Path], object]
) -> None:
    folder = scene.landing / "my-model"
    shutil.copytree(source, folder, copy_function=shutil.copyfile)
    break_it(folder)
    for now in (0, 5, 100, 599):
        assert scene.at(now) == []
    assert len(scene.said("waiting")) == 1
    (news,) = scene.at(600)
    assert news.event == BROKEN
    assert "not whole" in news.payload["reason"]
    scene.deliver()
    assert scene.at(100_000) == []
    shutil.copytree(source, folder, copy_function=shutil.copyfile, dirs_exist_ok=True)
    scene.at(100_001)
    assert landed_once(scene, 100_006)


def test_missing_shards_are_counted(scene: Scene, source: Path) -> None:
    shutil.copytree(source, scene.landing / "my-model")
    (scene.landing / "my-model" / "model-00002-of-00002.safetensors").unlink()
    scene.at(0)
    scene.at(5)
    (line,) = scene.said("waiting")
    assert "Expected: 2 shards. Got: 1 of them." in line


# ------------------------------------------------------------------ broken


def with_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"x")


BROKEN_ONES: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (with_pickle, "pickled weights"),
    "code": (lambda f: (f / "modeling_x.py").write_text("x"), "its own code"),
    "auto_map": (lambda f: change_json(f / "config.json", auto_map={"A": "b"}), "auto_map"),
    "header": (
        lambda f: change_header(f / "model.safetensors", "lm_head.weight", shape=[1, 1]),
        "header",
    ),
    "no safetensors": (
        lambda f: (f / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/"),
        "no safetensors file",
    ),
    "link out": (
        lambda f: (f / "notes").symlink_to(write_sample_checkpoint(f.parent.parent / "outside")),
        "leads out",
    ),
    "adapter": (lambda f: write_json(f / "adapter_config.json", {}), "adapter"),
}


@pytest.mark.parametrize(("break_it", "word"), BROKEN_ONES.values(), ids=BROKEN_ONES)
def test_broken_folder_is_reported_once_and_again_when_it_changed(
    scene: Scene, break_it: Callable[[Path], object], word: str
) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    break_it(folder)
    scene.at(0)
    assert scene.at(4) == []
    (news,) = scene.at(5)
    assert news.event == BROKEN
    assert news.payload["path"] == str(folder)
    assert news.payload["name"] == "my-model"
    assert word in news.payload["reason"]
    assert news.resource["prefect.resource.id"] == "checkpoint.my-model"
    scene.deliver()
    for now in (6, 60, 10_000):
        assert scene.at(now) == []
    (folder / "README.md").write_text("changed")
    scene.at(20_000)
    (second,) = scene.at(20_005)
    assert second.event == BROKEN
    assert second.id != news.id


def test_broken_folder_is_not_reported_again_after_a_restart(scene: Scene, tmp_path: Path) -> None:
    with_pickle(write_sample_checkpoint(scene.landing / "my-model"))
    scene.at(0)
    scene.at(5)
    scene.deliver()
    after = Scene(tmp_path)
    after.at(0)
    assert after.at(1000) == []
    assert after.read == []


@pytest.mark.parametrize("name", ["---", "型"])
def test_folder_whose_name_makes_no_model_name_is_broken(scene: Scene, name: str) -> None:
    write_sample_checkpoint(scene.landing / name)
    scene.at(0)
    (news,) = scene.at(5)
    assert news.event == BROKEN
    assert "cannot be the name" in news.payload["reason"]
    assert news.resource["prefect.resource.id"] == "checkpoint.unnamed"


def test_name_is_made_one_that_foundry_takes(scene: Scene) -> None:
    from tasks.foundry.naming import checked_name

    write_sample_checkpoint(scene.landing / "My Model (v2)")
    scene.at(0)
    (news,) = scene.at(5)
    assert news.payload["name"] == checked_name(news.payload["name"]) == "my-model-v2"


def test_given_name_is_every_releases(tmp_path: Path) -> None:
    scene = Scene(tmp_path, name="Champion")
    write_sample_checkpoint(scene.landing / "---")
    scene.at(0)
    (news,) = scene.at(5)
    assert (news.event, news.payload["name"]) == (LANDED, "champion")


def test_unreadable_folder_is_broken_and_lands_when_it_can_be_read(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    real_iterdir, real_scandir = Path.iterdir, os.scandir

    # The tests may run as root, from whom no folder can be hidden.
    def guarded(real: Callable[..., object]) -> Callable[..., object]:
        def listed(path: object) -> object:
            if str(path) == str(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return listed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", guarded(real_iterdir))
        patch.setattr(os, "scandir", guarded(real_scandir))
        scene.at(0)
        (news,) = scene.at(5)
        assert "Permission denied" in news.payload["reason"]
        scene.deliver()
    scene.at(100)
    assert landed_once(scene, 105)


# ------------------------------------------------------------------ READY and renames


def test_ready_written_last_lands_at_once(scene: Scene) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    touch_later(folder / "READY")
    assert landed_once(scene, 0)


def test_ready_that_was_copied_first_says_nothing(scene: Scene) -> None:
    folder = scene.landing / "my-model"
    folder.mkdir()
    (folder / "READY").touch()
    time.sleep(0.05)
    write_sample_checkpoint(scene.landing.parent / "source")
    shutil.copytree(scene.landing.parent / "source", folder, dirs_exist_ok=True)
    touch_later(folder / "config.json")
    assert scene.at(0) == []
    assert landed_once(scene, 5)


def test_ready_beside_half_a_checkpoint_waits(scene: Scene, source: Path) -> None:
    folder = scene.landing / "my-model"
    shutil.copytree(source, folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    touch_later(folder / "READY")
    assert scene.at(0) == []
    copied(source / "model-00002-of-00002.safetensors", folder)
    assert scene.at(1) == []
    touch_later(folder / "READY")
    assert landed_once(scene, 2)


def test_finished_rename_lands_after_a_second(scene: Scene) -> None:
    aside = write_sample_checkpoint(scene.landing / "my-model.partial")
    assert scene.at(0) == []
    time.sleep(0.05)
    aside.rename(scene.landing / "my-model")
    assert scene.at(10) == []
    assert scene.at(10.9) == []
    assert landed_once(scene, 11)


def test_renamed_folder_that_is_still_written_to_is_no_finished_rename(scene: Scene) -> None:
    aside = write_sample_checkpoint(scene.landing / "my-model.partial")
    time.sleep(0.05)
    aside.rename(scene.landing / "my-model")
    touch_later(scene.landing / "my-model" / "config.json")
    scene.at(0)
    assert scene.at(4.9) == []
    assert landed_once(scene, 5)


def test_folder_that_something_was_removed_from_is_no_finished_rename(scene: Scene) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    (folder / "config.json.copying").touch()
    time.sleep(0.05)
    (folder / "config.json.copying").unlink()
    scene.at(0)
    assert scene.at(4.9) == []
    assert landed_once(scene, 5)


# ------------------------------------------------------------------ once


def test_the_same_bytes_at_another_path_are_not_announced_again(scene: Scene) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model" / "step-1")
    scene.at(0)
    scene.at(5)
    scene.deliver()
    shutil.copytree(folder, scene.landing / "my-model" / "step-2")
    scene.at(10)
    assert scene.at(20) == []
    assert scene.said("known")
    shutil.copytree(folder, scene.landing / "other-name")
    scene.at(30)
    (news,) = scene.at(40)
    assert news.payload["name"] == "other-name"


def test_copying_the_same_again_over_it_announces_nothing(scene: Scene, source: Path) -> None:
    folder = scene.landing / "my-model"
    shutil.copytree(source, folder)
    scene.at(0)
    scene.at(5)
    scene.deliver()
    for file in sorted(source.iterdir()):
        touch_later(folder / file.name, by_s=0)
    scene.at(10)
    assert scene.at(20) == []
    assert len(scene.read) == 2


def test_two_equal_folders_at_once_are_one_announcement(scene: Scene) -> None:
    write_sample_checkpoint(scene.landing / "my-model" / "a")
    write_sample_checkpoint(scene.landing / "my-model" / "b")
    scene.at(0)
    assert landed_once(scene, 5)


def test_equal_folder_takes_over_when_the_first_is_gone_before_the_server_knew(
    scene: Scene,
) -> None:
    write_sample_checkpoint(scene.landing / "my-model" / "a")
    write_sample_checkpoint(scene.landing / "my-model" / "b")
    scene.at(0)
    (first,) = scene.at(5)
    shutil.rmtree(first.payload["path"])
    (second,) = scene.at(6)
    assert second.payload["path"] != first.payload["path"]
    assert second.id == first.id


def test_restart_neither_announces_nor_reads_again(scene: Scene, tmp_path: Path) -> None:
    write_sample_checkpoint(scene.landing / "my-model")
    scene.at(0)
    scene.at(5)
    scene.deliver()
    after = Scene(tmp_path)
    after.at(0)
    assert after.at(100) == []
    assert after.read == []


def test_what_the_server_did_not_take_is_announced_after_a_restart_with_the_same_id(
    scene: Scene, tmp_path: Path
) -> None:
    write_sample_checkpoint(scene.landing / "my-model")
    scene.at(0)
    (before,) = scene.at(5)
    after = Scene(tmp_path)
    after.at(0)
    (news,) = after.at(5)
    assert news.id == before.id


def test_again_announces_once_more_with_an_id_of_its_own(scene: Scene, tmp_path: Path) -> None:
    write_sample_checkpoint(scene.landing / "my-model" / "a")
    write_sample_checkpoint(scene.landing / "my-model" / "b")
    scene.at(0)
    (before,) = scene.at(5)
    scene.deliver()
    after = Scene(tmp_path, again=True)
    after.at(0)
    (news,) = after.at(5)
    assert news.id != before.id
    after.deliver()
    touch_later(Path(news.payload["path"]) / "config.json")
    write_sample_checkpoint(after.landing / "my-model" / "c")
    after.at(10)
    assert after.at(20) == []
    assert len(after.said("known")) == 3


def test_new_bytes_in_the_same_folder_are_a_new_landing(scene: Scene, source: Path) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    scene.at(0)
    (first,) = scene.at(5)
    scene.deliver()
    shutil.rmtree(folder)
    write_sample_checkpoint(folder, seed=1)
    scene.at(10)
    (second,) = scene.at(15)
    assert second.digest != first.digest


def test_news_of_a_folder_that_changed_on_the_way_is_taken_back(scene: Scene) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    scene.at(0)
    (before,) = scene.at(5)
    shutil.rmtree(folder)
    assert scene.at(6) == []
    write_sample_checkpoint(folder, seed=1)
    scene.at(7)
    (after,) = scene.at(12)
    assert after.digest != before.digest


def test_folder_that_is_deleted_while_it_waits_is_forgotten(scene: Scene, source: Path) -> None:
    folder = scene.landing / "my-model"
    shutil.copytree(source, folder)
    (folder / "config.json").unlink()
    scene.at(0)
    scene.at(5)
    shutil.rmtree(folder)
    assert scene.at(6) == []
    assert scene.at(10_000) == []
    assert scene.said("gone")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("is_sound", [True, False])
def test_folder_that_changes_while_it_is_read_waits_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, is_sound: bool, before: bool
) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model")
    if not is_sound:
        (folder / "code.py").touch()
    scene.at(0)

    def read_meanwhile(path: Path) -> object:
        if before:
            (folder / "README.md").write_text("meanwhile")
        try:
            return read_checkpoint(path)
        finally:
            (folder / "README.md").write_text("meanwhile, or later")

    with monkeypatch.context() as patch:
        patch.setattr("deployments.watch.local.read_checkpoint", read_meanwhile)
        assert scene.at(5) == []
    assert scene.at(6) == []
    assert [one.event for one in scene.at(11)] == [LANDED if is_sound else BROKEN]


def test_what_this_machine_cannot_take_is_tried_again_and_told_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample_checkpoint(scene.landing / "my-model")
    scene.at(0)

    def fail(_path: Path) -> object:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("deployments.watch.local.read_checkpoint", fail)
        for now in (5, 20, 35, 65, 95):
            assert scene.at(now) == []
    assert len(scene.read) == 4
    assert len(scene.said("waiting")) == 1
    assert scene.at(124) == []
    assert landed_once(scene, 125)


def test_missing_questions_are_told_and_stop_nothing(scene: Scene) -> None:
    write_sample_checkpoint(scene.landing / "without")
    write_sample_checkpoint(scene.landing / "with" / "step-1")
    (scene.landing / "with" / "questions.jsonl").touch()
    scene.at(0)
    assert len(scene.at(5)) == 2
    told = {line.split()[1]: "no questions.jsonl" in line for line in scene.said("landed")}
    assert told == {"without": True, "with": False}


@pytest.mark.parametrize("place", ["my-model/step-1", "my-model"])
def test_questions_that_come_later_are_a_new_landing_once(scene: Scene, place: str) -> None:
    write_sample_checkpoint(scene.landing / "my-model" / "step-1")
    scene.at(0)
    (refused,) = scene.at(5)
    assert "announced again" in scene.said("landed")[0]
    scene.deliver()
    questions = scene.landing / place / "questions.jsonl"
    questions.write_text("{}\n")
    scene.at(10)
    (news,) = scene.at(15)
    assert (news.digest, news.payload) == (refused.digest, refused.payload)
    assert news.id != refused.id  # else the server, which has stored the first, takes none
    scene.deliver()
    questions.write_text("{}\n{}\n")
    scene.at(20)
    assert scene.at(25) == []


def test_copy_that_lacks_the_questions_of_what_was_announced_is_known(scene: Scene) -> None:
    folder = write_sample_checkpoint(scene.landing / "my-model" / "step-1")
    (folder / "questions.jsonl").touch()
    scene.at(0)
    assert landed_once(scene, 5)
    scene.deliver()
    write_sample_checkpoint(scene.landing / "my-model" / "step-2")
    scene.at(10)
    assert scene.at(15) == []
    assert scene.said("known")
