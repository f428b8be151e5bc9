"""A bucket behind a real S3 interface, moto's server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.watch.announcement import BROKEN, LANDED
from deployments.watch.bucket import Bucket
from tasks.checkpoint.admit import admit_checkpoint
from tests.landing_scene import Scene
from tests.s3_server import s3_named, s3_server
from tests.sample_checkpoint import write_sharded_checkpoint

pytestmark = pytest.mark.real
BUCKET = "checkpoints"


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Give a client of an S3 server on loopback; the environment names it, as a user's would."""
    import boto3

    with s3_server(BUCKET) as environment, s3_named(environment):
        yield boto3.client("s3")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_sharded_checkpoint(tmp_path / "source")


def put(s3: Any, prefix: str, file: Path) -> None:
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{file.name}", Body=file.read_bytes())


def scene_of(tmp_path: Path, prefix: str) -> Scene:
    place = Bucket(f"s3://{BUCKET}/{prefix}", into=tmp_path / "landed", every_s=30)
    return Scene(tmp_path, place=place)


def test_upload_object_by_object_lands_once_whole(s3: Any, source: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, "slow")
    s3.put_object(Bucket=BUCKET, Key="slow/my-model/", Body=b"")  # as consoles mark a folder
    s3.put_object(Bucket=BUCKET, Key="slower/my-model/config.json", Body=b"another prefix")
    now = 0.0
    for file in sorted(source.iterdir()):
        put(s3, "slow/my-model", file)
        assert scene.at(now) == []
        now += 20
    (news,) = scene.at(now + 30)
    digest = admit_checkpoint(source).digest
    home = tmp_path / "landed" / "my-model" / digest[:12]
    assert news.payload == {"path": str(home), "digest": digest, "name": "my-model"}
    assert admit_checkpoint(home).digest == digest
    scene.deliver()
    after = scene_of(tmp_path, "slow")
    after.at(0)
    assert after.at(1000) == []
    assert after.read == []


def test_same_size_replacement_is_seen_by_its_etag(s3: Any, source: Path, tmp_path: Path) -> None:
    scene = scene_of(tmp_path, "replaced")
    for file in source.iterdir():
        put(s3, "replaced/my-model", file)
    scene.at(0)
    (first,) = scene.at(30)
    scene.deliver()
    shard = source / "model-00001-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(bytes(content))
    put(s3, "replaced/my-model", shard)
    scene.at(60)
    (second,) = scene.at(90)
    assert (second.event, second.digest == first.digest) == (LANDED, False)


@pytest.mark.parametrize("key", ["../../escape.json", "a\\b.json"])
def test_key_that_leads_out_is_refused(s3: Any, source: Path, tmp_path: Path, key: str) -> None:
    prefix = f"escape-{len(key)}"
    for file in source.iterdir():
        put(s3, f"{prefix}/my-model", file)
    s3.put_object(Bucket=BUCKET, Key=f"{prefix}/my-model/{key}", Body=b"{}")
    scene = scene_of(tmp_path, prefix)
    scene.at(0)
    (news,) = scene.at(30)
    assert news.event == BROKEN
    assert repr(key) in news.payload["reason"]
    assert not list(tmp_path.rglob("*escape*"))


def test_bucket_that_is_not_there_is_an_error_and_not_an_empty_one(s3: Any, tmp_path: Path) -> None:
    place = Bucket("s3://no-such-bucket/prefix", into=tmp_path)
    with pytest.raises(FileNotFoundError):
        place.look()
