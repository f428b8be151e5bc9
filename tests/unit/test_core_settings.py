"""All state is below one home, which the environment names."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest
from pydantic import ValidationError

from tasks.core.settings import Settings

FOLDERS = [name for name, kind in vars(Settings).items() if isinstance(kind, property)]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INGOT_HOME", raising=False)
    monkeypatch.delenv("INGOT_WORKERS", raising=False)


def test_home_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_HOME", str(tmp_path))
    assert Settings().home == tmp_path


def test_home_is_read_at_each_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_HOME", str(tmp_path / "one"))
    assert Settings().store == tmp_path / "one" / "store"
    monkeypatch.setenv("INGOT_HOME", str(tmp_path / "two"))
    assert Settings().store == tmp_path / "two" / "store"


def test_default_home_is_the_platform_s_folder_for_user_data() -> None:
    assert Settings().home == Path(platformdirs.user_data_path("ingot", appauthor=False))


def test_every_folder_is_below_home_and_none_is_another_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_HOME", str(tmp_path))
    folders = [getattr(Settings(), name) for name in FOLDERS]
    assert len(set(folders)) == len(folders) >= 8
    assert {folder.parent for folder in folders} == {tmp_path}


def test_looking_at_settings_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INGOT_HOME", str(tmp_path / "home"))
    assert not Settings().records.exists()
    assert not (tmp_path / "home").exists()


def test_empty_setting_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_WORKERS", "")
    assert Settings().workers == 3


@pytest.mark.parametrize("workers", ["0", "-1", "many"])
def test_number_of_workers_must_make_sense(workers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INGOT_WORKERS", workers)
    with pytest.raises(ValidationError, match="workers"):
        Settings()


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(ValidationError, match="frozen"):
        settings.home = tmp_path / "other"
