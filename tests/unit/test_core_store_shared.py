"""The store of several machines, on a folder, in memory and on a real S3 server on loopback.

Two machines are two homes; what is between them is one address.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tasks.core import shared_objects
from tasks.core.errors import EnvironmentUnfit, InputError, ResourceBusy
from tasks.core.files import digest_of, sha256_file
from tasks.core.settings import Settings
from tasks.core.shared_objects import SharedObjects, shared_url
from tasks.core.shared_store import SharedStore, store_of
from tasks.core.store import MANIFEST, Manifest, Store
from tests.s3_server import SECRET, s3_named, s3_server

CONTENT = {"model.onnx": b"weights" * 1000, "config/genai_config.json": b"{}"}


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@pytest.fixture
def at_s3(s3: dict[str, str]) -> Iterator[None]:
    with s3_named(s3):
        yield


@pytest.fixture(params=["folder", "memory", "s3"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "mount point")
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    request.getfixturevalue("at_s3")
    bucket = tmp_path.name.replace("_", "-").lower()[:40].strip("-")
    fsspec.filesystem("s3").mkdir(bucket)
    return f"s3://{bucket}/a/prefix"


class Site:
    """Two machines and what they share."""

    def __init__(self, folder: Path, shared: str) -> None:
        self.folder, self.url = folder, shared_url(shared)
        self.one, self.two = self.machine("one", shared), self.machine("two", shared)

    def machine(self, name: str, shared: str) -> SharedStore:
        store = store_of(Settings(home=self.folder / name, shared=shared))
        assert isinstance(store, SharedStore)
        return store

    def has(self, name: str, digest: str) -> bool:
        return (self.folder / name / "store" / "objects" / digest).exists()

    def files(self) -> tuple[Any, str]:
        files, root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        return files, f"{root}/objects"

    def write(self, name: str, content: bytes) -> None:
        files, root = self.files()
        files.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        if (local := Path(f"{root}/{name}")).exists():
            local.chmod(0o644)
        files.pipe_file(f"{root}/{name}", content)

    def names(self) -> set[str]:
        files, root = self.files()
        return {found.partition("/objects/")[2] for found in files.find(root)}


@pytest.fixture
def site(tmp_path: Path, shared: str) -> Site:
    return Site(tmp_path, shared)


@pytest.fixture
def on_folder(tmp_path: Path) -> Site:
    return Site(tmp_path, str(tmp_path / "mount"))


def publish(store: Store, content: dict[str, bytes] | None = None) -> str:
    with store.staging() as staged:
        for name, text in (content or CONTENT).items():
            (staged / "object" / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / "object" / name).write_bytes(text)
        return store.publish(staged / "object")


def content_of(folder: Path) -> dict[str, bytes]:
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != MANIFEST)
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


# ---------------------------------------------------------------- giving and getting


def test_other_machine_gets_the_same_bytes_when_it_asks_for_the_path(site: Site) -> None:
    digest = publish(site.one)
    assert site.two.is_intact(digest)
    assert not site.has("two", digest)
    assert content_of(site.two.path(digest)) == CONTENT
    assert Store(site.folder / "two" / "store").is_intact(digest, deep=True)


def test_what_is_asked_for_in_depth_is_fetched(site: Site) -> None:
    digest = publish(site.one)
    assert site.two.is_intact(digest, deep=True)
    assert site.has("two", digest)


def test_what_nobody_has_is_nowhere_and_leaves_nothing(site: Site) -> None:
    assert not site.one.is_intact("0" * 64)
    assert not site.one.is_intact("0" * 64, deep=True)
    assert not site.one.path("0" * 64).exists()


def test_nothing_is_left_beside_the_object(site: Site) -> None:
    digest = publish(site.one)
    assert site.names() == {f"{digest}/{name}" for name in (*CONTENT, MANIFEST)}


def test_store_without_a_shared_place_is_the_plain_one(tmp_path: Path) -> None:
    assert type(store_of(Settings(home=tmp_path))) is Store


def test_object_from_before_the_place_was_shared_is_sent_when_it_is_met(site: Site) -> None:
    digest = publish(Store(site.folder / "one" / "store"))
    assert not site.two.is_intact(digest)
    assert site.one.is_intact(digest)
    assert site.two.is_intact(digest, deep=True)


def test_discarded_object_is_gone_for_all(site: Site) -> None:
    digest = publish(site.one)
    site.two.discard(digest)
    assert site.names() == set()
    assert not site.two.is_intact(digest, deep=True)


# ---------------------------------------------------------------- what can go wrong


def test_interrupted_upload_is_invisible_and_is_finished_the_next_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, sent = shared_objects._put, []

    def breaking(files: Any, source: Path, target: str) -> None:
        if len(sent) == 1:
            raise ConnectionError("planted")
        put(files, source, target)
        sent.append(target)

    monkeypatch.setattr(shared_objects, "_put", breaking)
    with pytest.raises(ResourceBusy, match="planted"):
        publish(site.one)
    (half,) = site.names()
    digest = half.partition("/")[0]
    assert not site.two.is_intact(digest)
    assert not site.two.path(digest).exists()
    monkeypatch.setattr(shared_objects, "_put", put)
    assert publish(site.one) == digest
    assert content_of(site.two.path(digest)) == CONTENT


def test_altered_byte_is_reported_not_used_and_replaced(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    digest = publish(site.one)
    site.write(f"{digest}/model.onnx", b"X" + CONTENT["model.onnx"][1:])
    with caplog.at_level(logging.WARNING):
        assert not site.two.is_intact(digest, deep=True)
    assert "came damaged" in caplog.text
    assert not site.has("two", digest)
    assert site.one.is_intact(digest)
    assert content_of(site.two.path(digest)) == CONTENT


def test_cut_file_is_reported_and_replaced(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    digest = publish(site.one)
    site.write(f"{digest}/model.onnx", CONTENT["model.onnx"][:-1])
    with caplog.at_level(logging.WARNING):
        assert not site.two.is_intact(digest)
    assert "damaged: model.onnx" in caplog.text
    assert site.one.is_intact(digest)
    assert content_of(site.two.path(digest)) == CONTENT


def test_own_damage_is_mended_from_the_shared_place(site: Site) -> None:
    digest = publish(site.one)
    model = site.one.path(digest) / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(b"X" + CONTENT["model.onnx"][1:])
    assert site.one.is_intact(digest, deep=True)
    assert content_of(site.one.path(digest)) == CONTENT


def test_manifest_that_leads_out_of_the_object_is_refused(site: Site, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.write_bytes(b"evil")
    for name in ("../../../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"):
        digest = digest_of([(name, sha256_file(evil))])
        manifest = Manifest(digest=digest, files={name: (4, sha256_file(evil))})
        site.write(f"{digest}/{MANIFEST}", manifest.model_dump_json().encode())
        assert not site.two.is_intact(digest)
        assert not site.two.is_intact(digest, deep=True)
        assert not site.two.path(digest).exists()


def test_manifest_of_another_object_is_not_believed(site: Site) -> None:
    digest, other = publish(site.one), publish(site.one, {"model.onnx": b"other"})
    files, root = site.files()
    site.write(f"{digest}/{MANIFEST}", files.cat_file(f"{root}/{other}/{MANIFEST}"))
    assert not site.two.is_intact(digest)


def test_two_machines_publish_at_once(site: Site) -> None:
    digests: list[str] = []
    machines = [site.machine(f"machine {n}", site.url) for n in range(4)]
    threads = [threading.Thread(target=lambda m=m: digests.append(publish(m))) for m in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(digests) == 4
    assert len(set(digests)) == 1
    assert content_of(site.two.path(digests[0])) == CONTENT
    assert site.names() == {f"{digests[0]}/{name}" for name in (*CONTENT, MANIFEST)}


def test_steps_of_one_machine_fetch_an_object_once(
    on_folder: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, fetched = publish(on_folder.one), []
    download = SharedObjects.download

    def counting(self: SharedObjects, manifest: Manifest, folder: Path) -> None:
        fetched.append(manifest.digest)
        download(self, manifest, folder)

    monkeypatch.setattr(SharedObjects, "download", counting)
    threads = [threading.Thread(target=on_folder.two.path, args=(digest,)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert fetched == [digest]


# ---------------------------------------------------------------- files from elsewhere


def test_folder_of_somebody_else_is_shared_as_it_is(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "checkpoint" / "config.json"
    source.parent.mkdir()
    source.write_text("{}")
    digest = digest_of([("config.json", sha256_file(source))])
    site.one.share(digest, {"config.json": source})
    assert content_of(site.two.path(digest)) == {"config.json": b"{}"}
    assert source.stat().st_mode & 0o200


def test_files_that_changed_since_are_not_shared(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "config.json"
    source.write_text("{}")
    digest = digest_of([("config.json", sha256_file(source))])
    source.write_text("{ }")
    with pytest.raises(ResourceBusy, match="files changed before they were shared"):
        site.one.share(digest, {"config.json": source})
    assert site.names() == set()


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "address",
    ["s3://key:never-shown@bucket/x", "https://host/x?token=never-shown", "ftp://never-shown@host"],
)
def test_address_with_credentials_is_refused_without_showing_them(address: str) -> None:
    with pytest.raises(InputError, match="leave credentials to the environment") as refused:
        shared_url(address)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "url"),
    [("/mnt/ingot", "file:///mnt/ingot"), ("s3://bucket/prefix/", "s3://bucket/prefix")],
)
def test_folder_becomes_a_url(given: str, url: str) -> None:
    assert shared_url(given) == url


@pytest.mark.usefixtures("at_s3")
def test_missing_bucket_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match="s3://no-such-bucket/x refuses") as refused:
        publish(Site(tmp_path, "s3://no-such-bucket/x").one)
    assert SECRET not in str(refused.value)


@pytest.mark.usefixtures("at_s3")
def test_server_that_is_down_is_transient(tmp_path: Path) -> None:
    down = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    with (
        s3_named(down),
        pytest.raises(ResourceBusy, match="cannot be reached from") as refused,
    ):
        Site(tmp_path, "s3://bucket/x").one.is_intact("0" * 64)
    assert SECRET not in str(refused.value)


def test_unknown_kind_of_address_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnfit, match="nosuch://place cannot be used"):
        Site(tmp_path, "nosuch://place").one.is_intact("0" * 64)
