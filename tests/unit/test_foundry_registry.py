"""Which id a variant gets, on real folders and a hand-written index.

`FakeCatalog` refuses what Foundry Local refuses; tests/real/test_foundry_register.py runs the same
moves on the real one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.core.errors import InputError
from tasks.core.records import Precision
from tasks.core.store import Store
from tasks.foundry.naming import model_alias
from tasks.foundry.placement import ModelFolders
from tasks.foundry.registry import Registered, Registry
from tasks.foundry.runtime import DIGEST_PROPERTY, RegisteredModel

ALIAS = "home-int4-cpu"


class FakeCatalog:
    """An index in memory; an entry is cached as long as its folder is there."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[Path, str | None]] = {}

    def versions(self, alias: str) -> dict[int, RegisteredModel]:
        found = {}
        for model_id, (folder, digest) in self.entries.items():
            name, _, number = model_id.rpartition(":")
            if name == alias:
                is_cached = folder.is_dir()
                version = int(number)
                found[version] = RegisteredModel(model_id, version, digest, folder, is_cached)
        return found

    def register(self, model_id: str, folder: Path, properties: Mapping[str, str]) -> None:
        assert model_id not in self.entries, "Foundry Local refuses an id that is taken"
        assert (folder / "genai_config.json").is_file(), "and a folder without genai_config.json"
        self.entries[model_id] = (folder, properties[DIGEST_PROPERTY])

    def unregister(self, model_id: str) -> None:
        del self.entries[model_id]


class Shop:
    """A store, an index and a registry on it."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root / "store")
        self.index = root / "foundry"
        self.catalog = FakeCatalog()
        self.registry = Registry(self.catalog, self.index, ALIAS)
        self.folders = ModelFolders(self.index, ALIAS)

    def publish(self, weights: str) -> str:
        with self.store.staging() as staged:
            (staged / "genai_config.json").write_text("{}", encoding="utf-8")
            (staged / "tokenizer_config.json").write_text("{}", encoding="utf-8")
            (staged / "model.onnx").write_text(weights, encoding="utf-8")
            return self.store.publish(staged)

    def release(self, digest: str) -> Registered:
        there = self.registry.current(digest)
        return there or self.registry.enter(digest, self.store.path(digest))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_same_bytes_keep_their_id(shop: Shop) -> None:
    first = shop.release(shop.publish("a"))
    second = shop.release(shop.publish("a"))
    assert (first.model_id, first.created) == ("home-int4-cpu:1", True)
    assert (second.model_id, second.created) == ("home-int4-cpu:1", False)


def test_other_bytes_get_the_next_number(shop: Shop) -> None:
    ids = [shop.release(shop.publish(weights)).model_id for weights in "abc"]
    assert ids == [f"{ALIAS}:1", f"{ALIAS}:2", f"{ALIAS}:3"]


def test_older_bytes_get_a_new_number_because_the_alias_means_the_highest(shop: Shop) -> None:
    old, new = shop.publish("a"), shop.publish("b")
    assert [shop.release(digest).version for digest in (old, new, old, old)] == [1, 2, 3, 3]


def test_placed_folder_is_complete_linked_and_read_only(shop: Shop) -> None:
    digest = shop.publish("a")
    folder = shop.release(digest).folder
    weights = folder / "model.onnx"
    assert weights.samefile(shop.store.path(digest) / "model.onnx")
    written = json.loads((folder / "inference_model.json").read_text(encoding="utf-8"))
    assert written["Name"] == f"{ALIAS}:1"
    modes = {file.stat().st_mode & 0o222 for file in folder.iterdir()}
    assert modes == {0}


def test_another_disk_gets_copies(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_link)
    digest = shop.publish("a")
    registered = shop.release(digest)
    assert shop.folders.holds(registered.version, digest)
    assert not (registered.folder / "model.onnx").samefile(shop.store.path(digest) / "model.onnx")


def test_full_disk_is_not_taken_for_another_disk(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", disk_full)
    with pytest.raises(OSError, match="No space left"):
        shop.release(shop.publish("a"))
    assert shop.catalog.entries == {}
    assert shop.folders.versions() == []


def test_vanished_folder_is_placed_again_under_its_id(shop: Shop) -> None:
    digest = shop.publish("a")
    shop.folders.remove(shop.release(digest).version)
    again = shop.release(digest)
    assert (again.model_id, again.created) == (f"{ALIAS}:1", True)
    assert shop.folders.holds(1, digest)


def test_damaged_folder_is_replaced_under_its_id(shop: Shop) -> None:
    digest = shop.publish("a")
    (shop.release(digest).folder / "model.onnx").unlink()
    assert shop.registry.current(digest) is None
    assert shop.release(digest).version == 1
    assert shop.folders.holds(1, digest)


def test_vanished_version_leaves_the_index_and_its_number_is_not_used_for_other_bytes(
    shop: Shop,
) -> None:
    shop.release(shop.publish("a"))
    shop.folders.remove(shop.release(shop.publish("b")).version)
    assert shop.release(shop.publish("c")).version == 3
    assert sorted(shop.catalog.entries) == [f"{ALIAS}:1", f"{ALIAS}:3"]


def test_folder_of_a_process_killed_before_it_registered_is_taken_over(shop: Shop) -> None:
    digest = shop.publish("a")
    shop.folders.place(shop.store.path(digest), 1, lambda folder: None)
    assert shop.release(digest).model_id == f"{ALIAS}:1"


def test_number_of_a_rolled_back_version_is_not_used_for_other_bytes(shop: Shop) -> None:
    first, second = shop.publish("a"), shop.publish("b")
    shop.release(first)
    shop.catalog.unregister(shop.release(second).model_id)
    assert shop.release(shop.publish("c")).version == 3


def test_rolled_back_bytes_get_their_own_number_back(shop: Shop) -> None:
    second = shop.publish("b")
    shop.release(shop.publish("a"))
    shop.catalog.unregister(shop.release(second).model_id)
    assert shop.release(second).version == 2


def test_half_made_folders_are_swept_and_never_count(shop: Shop) -> None:
    half = shop.index / "custom" / ALIAS / ".v1.partial"
    half.mkdir(parents=True)
    (half / "model.onnx").write_text("half", encoding="utf-8")
    assert shop.release(shop.publish("a")).version == 1
    assert not half.exists()


def test_withdrawn_version_leaves_no_folder_and_the_one_below(shop: Shop) -> None:
    shop.release(shop.publish("a"))
    shop.registry.withdraw(shop.release(shop.publish("b")))
    assert list(shop.catalog.entries) == [f"{ALIAS}:1"]
    assert shop.folders.versions() == [1]


def test_entry_of_somebody_else_is_left_alone(shop: Shop, tmp_path: Path) -> None:
    shop.catalog.entries[f"{ALIAS}:7"] = (tmp_path, None)
    assert shop.release(shop.publish("a")).version == 8
    assert f"{ALIAS}:7" in shop.catalog.entries


@pytest.mark.parametrize("name", ["org/model", "", "-x", "größe", "a b", "a:b", "../up"])
def test_names_that_foundry_local_refuses_are_refused_before_it(name: str) -> None:
    with pytest.raises(InputError, match="cannot be a name"):
        model_alias(name, Precision.INT4)


def test_alias_names_the_precision() -> None:
    assert model_alias("home", Precision.INT8) == "home-int8-cpu"
    assert model_alias("Home", Precision.INT8) == "home-int8-cpu"
