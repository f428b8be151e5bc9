"""What lands in a bucket is brought here whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from deployments.watch.announcement import BROKEN, LANDED
from deployments.watch.bucket import Bucket
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.errors import DoesNotFit, InputError, ToolMissing
from tests.landing_scene import Scene
from tests.sample_checkpoint import write_sample_checkpoint, write_sharded_checkpoint

EVERY_S = 30.0


class BucketScene(Scene):
    """A scene on a bucket in memory."""

    def __init__(self, root: Path) -> None:
        self.url = f"memory://bucket-{uuid.uuid4().hex}/prefix"
        self.files, self.prefix = fsspec.core.url_to_fs(self.url)
        self.into = root / "landed"
        super().__init__(root, place=Bucket(self.url, into=self.into, every_s=EVERY_S))

    def upload(self, folder: Path, name: str, *, without: tuple[str, ...] = ()) -> None:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.name not in without:
                key = file.relative_to(folder).as_posix()
                self.files.pipe(f"{self.prefix}/{name}/{key}", file.read_bytes())

    def left_aside(self) -> list[Path]:
        return list(self.into.glob(".partial-*"))


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[BucketScene]:
    scene = BucketScene(tmp_path)
    yield scene
    with contextlib.suppress(FileNotFoundError):
        scene.files.rm(scene.prefix, recursive=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = write_sharded_checkpoint(tmp_path / "source")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool.jinja").write_text("{{ messages }}")
    (folder / "optimizer.pt").write_bytes(b"state")
    (folder / "questions.jsonl").write_text("{}\n")
    return folder


def test_listing_that_stays_the_same_for_two_looks_lands(bucket: BucketScene, source: Path) -> None:
    bucket.upload(source, "my-model")
    assert bucket.at(0) == []
    assert bucket.at(29) == []
    (news,) = bucket.at(30)
    digest = admit_checkpoint(source).digest
    home = bucket.into / "my-model" / digest[:12]
    assert news.payload == {"path": str(home), "digest": digest, "name": "my-model"}
    assert admit_checkpoint(home).digest == digest
    assert (home / "questions.jsonl").is_file()
    assert not (home / "optimizer.pt").exists()
    assert bucket.left_aside() == []


def test_slow_upload_lands_once(bucket: BucketScene, source: Path) -> None:
    now = 0.0
    for file in sorted(source.iterdir()):
        if file.is_file():
            bucket.files.pipe(f"{bucket.prefix}/my-model/{file.name}", file.read_bytes())
            assert bucket.at(now) == []
            now += 20
    assert [one.event for one in bucket.at(now + 30)] == [LANDED]
    bucket.deliver()
    assert bucket.at(now + 1000) == []


@pytest.mark.parametrize(
    "lacking",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json",
     "model-00002-of-00002.safetensors"],
)  # fmt: skip
def test_upload_that_stalls_brings_nothing_and_waits(
    bucket: BucketScene, source: Path, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    real = type(bucket.files).get_file

    def get_file(self: object, rpath: str, lpath: str, **rest: object) -> None:
        fetched.append(rpath)
        real(self, rpath, lpath, **rest)

    monkeypatch.setattr(type(bucket.files), "get_file", get_file)
    bucket.upload(source, "my-model", without=(lacking,))
    bucket.at(0)
    assert bucket.at(30) == []
    assert [name for name in fetched if not name.endswith("index.json")] == []
    assert bucket.said("waiting")
    assert not (bucket.into / "my-model").exists()
    bucket.upload(source, "my-model")
    bucket.at(60)
    assert [one.event for one in bucket.at(90)] == [LANDED]


def test_ready_lands_at_once_unless_it_was_uploaded_first(
    bucket: BucketScene, source: Path
) -> None:
    bucket.files.pipe(f"{bucket.prefix}/first/READY", b"")
    bucket.upload(source, "first")
    bucket.upload(source, "last")
    bucket.files.pipe(f"{bucket.prefix}/last/READY", b"")
    (news,) = bucket.at(0)
    assert news.payload["name"] == "last"


@pytest.mark.parametrize("key", ["../../escape", "a/../../../escape", "a\\..\\b", "x:y", "a//b"])
def test_key_that_leads_out_of_the_folder_is_refused(
    bucket: BucketScene, source: Path, tmp_path: Path, key: str
) -> None:
    bucket.upload(source, "my-model")
    # Behind the file system's back, which would tidy the key up.
    real = bucket.files.find

    def find(path: str, **rest: object) -> object:
        found = dict(real(path, **rest))
        info = dict(next(iter(found.values())))
        return {**found, f"{bucket.prefix}/my-model/{key}": info}

    bucket.place._files = type("Listing", (), {"find": staticmethod(find), "get_file": None})()
    bucket.at(0)
    (news,) = bucket.at(30)
    assert news.event == BROKEN
    assert "an object is called" in news.payload["reason"]
    assert not any(path.name == "escape" for path in tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("modeling.py", "its own code"),
        ("pytorch_model.bin", "pickled"),
        ("adapter_config.json", "adapter"),
    ],
)
def test_unsafe_objects_are_refused_before_anything_is_brought(
    bucket: BucketScene, source: Path, name: str, word: str
) -> None:
    bucket.upload(source, "my-model")
    bucket.files.pipe(f"{bucket.prefix}/my-model/{name}", b"x")
    bucket.at(0)
    (news,) = bucket.at(30)
    assert word in news.payload["reason"]
    assert news.payload["path"] == f"{bucket.url}/my-model"
    assert bucket.url in news.payload["reason"]
    assert ".partial-" not in news.payload["reason"]
    assert list(bucket.into.iterdir()) == []


def test_damaged_weights_are_refused_and_leave_nothing(bucket: BucketScene, source: Path) -> None:
    shard = source / "model-00001-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes() + b"more")
    bucket.upload(source, "my-model")
    bucket.at(0)
    (news,) = bucket.at(30)
    assert "no tensor claims" in news.payload["reason"]
    assert list(bucket.into.iterdir()) == []


def test_full_disk_leaves_nothing_and_is_tried_again(
    bucket: BucketScene, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(source, "my-model")
    bucket.at(0)
    real = type(bucket.files).get_file

    def full(self: object, rpath: str, lpath: str, **rest: object) -> None:
        real(self, rpath, lpath, **rest)
        if rpath.endswith("00002-of-00002.safetensors"):
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket.files), "get_file", full)
        assert bucket.at(30) == []
    assert "No space left" in bucket.said("waiting")[0]
    assert list(bucket.into.iterdir()) == []
    assert bucket.at(59) == []
    assert [one.event for one in bucket.at(60)] == [LANDED]


def test_too_little_room_is_said_with_numbers_before_anything_is_brought(
    bucket: BucketScene, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(source, "my-model")
    usage = shutil.disk_usage(bucket.landing)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    (sighting,) = bucket.place.look()
    with pytest.raises(DoesNotFit, match="--into"):
        bucket.place.take_in(sighting)
    assert list(bucket.into.iterdir()) == []


def test_object_that_is_replaced_while_it_is_brought_waits_again(
    bucket: BucketScene, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.upload(source, "my-model")
    bucket.at(0)
    real = type(bucket.files).get_file

    def replacing(self: object, rpath: str, lpath: str, **rest: object) -> None:
        real(self, rpath, lpath, **rest)
        if rpath.endswith("tokenizer.json"):
            bucket.upload(source, "my-model")

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket.files), "get_file", replacing)
        assert bucket.at(30) == []
    assert list(bucket.into.iterdir()) == []
    bucket.at(60)
    assert [one.event for one in bucket.at(90)] == [LANDED]


def test_the_same_upload_again_is_known_and_brought_to_the_same_place(
    bucket: BucketScene, source: Path
) -> None:
    bucket.upload(source, "my-model")
    bucket.at(0)
    bucket.at(30)
    bucket.deliver()
    bucket.upload(source, "my-model")
    bucket.at(60)
    assert bucket.at(90) == []
    assert bucket.said("known")
    assert len(list((bucket.into / "my-model").iterdir())) == 1


def test_damaged_copy_here_is_replaced(bucket: BucketScene, source: Path) -> None:
    bucket.upload(source, "my-model")
    bucket.at(0)
    (news,) = bucket.at(30)
    bucket.deliver()
    home = Path(news.payload["path"])
    (home / "config.json").unlink()
    bucket.upload(source, "my-model")
    bucket.at(60)
    bucket.at(90)
    assert admit_checkpoint(home, name="a").digest == news.digest
    assert [path.name for path in home.parent.iterdir()] == [home.name]


@pytest.mark.parametrize("place", ["my-model/step-1", "my-model"])
def test_questions_that_are_uploaded_later_are_brought_and_announced(
    bucket: BucketScene, tmp_path: Path, place: str
) -> None:
    bucket.upload(write_sample_checkpoint(tmp_path / "plain"), "my-model/step-1")
    bucket.at(0)
    (refused,) = bucket.at(30)
    bucket.deliver()
    bucket.files.pipe(f"{bucket.prefix}/{place}/questions.jsonl", b"{}\n")
    bucket.at(60)
    (news,) = bucket.at(90)
    assert news.payload == refused.payload
    assert news.id != refused.id
    assert (Path(news.payload["path"]) / "questions.jsonl").read_bytes() == b"{}\n"
    assert bucket.left_aside() == []


def test_other_questions_are_brought_and_the_log_says_how_to_release_with_them(
    bucket: BucketScene, source: Path
) -> None:
    bucket.upload(source, "my-model")
    bucket.at(0)
    (news,) = bucket.at(30)
    bucket.deliver()
    bucket.files.pipe(f"{bucket.prefix}/my-model/questions.jsonl", b"{}\n{}\n")
    bucket.at(60)
    assert bucket.at(90) == []
    assert (Path(news.payload["path"]) / "questions.jsonl").read_bytes() == b"{}\n{}\n"
    assert "--again" in bucket.said("known")[0]


def test_questions_beside_the_folder_come_along(bucket: BucketScene, tmp_path: Path) -> None:
    bucket.upload(write_sample_checkpoint(tmp_path / "plain"), "my-model/step-1")
    bucket.files.pipe(f"{bucket.prefix}/my-model/questions.jsonl", b"{}\n")
    bucket.at(0)
    (news,) = bucket.at(30)
    assert (Path(news.payload["path"]) / "questions.jsonl").read_bytes() == b"{}\n"


def test_what_a_killed_download_left_is_swept(bucket: BucketScene) -> None:
    (bucket.into / ".partial-x").mkdir(parents=True)
    (bucket.into / "my-model" / ".partial-y").mkdir(parents=True)
    assert bucket.place.sweep() == 2
    assert [path.name for path in bucket.into.rglob("*")] == ["my-model"]


def test_folder_by_url_is_a_bucket_too(tmp_path: Path, source: Path) -> None:
    remote = tmp_path / "remote"
    shutil.copytree(source, remote / "my-model")
    os.utime(remote / "my-model" / "config.json", (0, 0))
    place = Bucket(f"file://{remote}", into=tmp_path / "landed", every_s=EVERY_S)
    scene = Scene(tmp_path, place=place)
    scene.at(0)
    (news,) = scene.at(30)
    assert news.digest == admit_checkpoint(source).digest


def test_url_that_cannot_be_watched_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nope"):
        Bucket("nope://x", into=tmp_path)


def test_secrets_of_a_url_are_never_shown(tmp_path: Path) -> None:
    with pytest.raises((InputError, ToolMissing)) as caught:
        Bucket("nope://user:secret@host/x", into=tmp_path)
    assert "secret" not in str(caught.value)


def test_missing_package_names_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_args: object, **_rest: object) -> Callable[..., object]:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(ToolMissing, match=r"make\.py cluster"):
        Bucket("s3://bucket/prefix", into=tmp_path)
