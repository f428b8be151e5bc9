"""Registration in the real Foundry Local: ids, healing, refusal, several writers, sudden death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.child import QUIET_ENVIRONMENT
from tasks.core.errors import EnvironmentUnfit, InputError, ToolFailed, VariantUnusable
from tasks.core.records import Message, Registration, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.foundry import proof, register_child
from tasks.foundry.in_place import is_in_place
from tasks.foundry.ledger import champion_of, record_champion
from tasks.foundry.register import RegisterRequest, register_champion
from tasks.foundry.roll_back import roll_back
from tasks.foundry.runtime import INDEX_FILE, foundry_runtime
from tests.foundry_variants import edited_config, publish, question

pytestmark = pytest.mark.real

QUESTION = question("Turn on the light in the kitchen, please.")
ALIAS = "tiny-int4-cpu"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def registered(settings: Settings, variant: Variant) -> Registration:
    return register_champion("tiny", variant, QUESTION, settings=settings)


def index_of(settings: Settings) -> list[str]:
    with foundry_runtime(settings.foundry, settings.logs) as runtime:
        return runtime.listed_ids()


def folders_of(settings: Settings) -> list[str]:
    return sorted(entry.name for entry in (settings.foundry / "custom" / ALIAS).iterdir())


def test_same_bytes_keep_their_id_and_other_bytes_get_the_next(settings: Settings) -> None:
    first, other = publish(settings), publish(settings, edited_config(top_k=7))
    registrations = [registered(settings, variant) for variant in (first, first, other)]
    assert [each.model_id for each in registrations] == [f"{ALIAS}:1", f"{ALIAS}:1", f"{ALIAS}:2"]
    assert [each.created for each in registrations] == [True, False, True]
    assert len({each.answer for each in registrations}) == 1
    assert all(each.answer and each.right for each in registrations)
    assert index_of(settings) == [f"{ALIAS}:1", f"{ALIAS}:2"]


def test_writers_at_once_give_the_same_bytes_one_id_and_other_bytes_another(
    settings: Settings,
) -> None:
    same, other = publish(settings), publish(settings, edited_config(top_k=7))
    with ThreadPoolExecutor(4) as pool:
        first = list(pool.map(lambda _: registered(settings, same), range(4)))
    assert {each.model_id for each in first} == {f"{ALIAS}:1"}
    assert sum(each.created for each in first) == 1
    third = publish(settings, edited_config(top_k=8))
    with ThreadPoolExecutor(2) as pool:
        rest = list(pool.map(lambda each: registered(settings, each), (other, third)))
    assert {each.model_id for each in rest} == {f"{ALIAS}:2", f"{ALIAS}:3"}


def test_champion_is_in_place_while_index_and_folder_say_so(settings: Settings) -> None:
    first = publish(settings)
    registration = registered(settings, first)
    champion = record_champion(settings, "tiny", registration, first, run_id="run")
    assert is_in_place(champion, settings)
    size = (file := registration.path / "genai_config.json").stat().st_size
    file.chmod(0o644)
    file.unlink()
    assert not is_in_place(champion, settings)
    file.write_text(" " * size)
    assert is_in_place(champion, settings)  # names and sizes are looked at, no bytes
    index = settings.foundry / INDEX_FILE
    told = index.read_text()
    index.write_text(told.replace(f'"{champion.model_id}"', f'"{ALIAS}:9"'))
    assert not is_in_place(champion, settings)  # these files, under another id
    index.write_text(told.replace("/v1", "/v9"))
    assert not is_in_place(champion, settings)  # this id, with other files
    index.write_text(told)
    assert is_in_place(champion, settings)
    registered(settings, publish(settings, edited_config(top_k=7)))
    assert not is_in_place(champion, settings)  # the alias means another version now
    (settings.foundry / INDEX_FILE).unlink()
    assert not is_in_place(champion, settings)


def test_deleted_folder_heals_under_the_same_id(settings: Settings) -> None:
    variant = publish(settings)
    folder = registered(settings, variant).path
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    again = registered(settings, variant)
    assert (again.model_id, again.created) == (f"{ALIAS}:1", True)
    assert index_of(settings) == [f"{ALIAS}:1"]


def test_damaged_object_is_refused_before_registration(settings: Settings) -> None:
    variant = publish(settings)
    weights = Store(settings.store).path(variant.digest) / "model.onnx.data"
    damaged = bytearray(weights.read_bytes())
    damaged[1000] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(damaged)
    with pytest.raises(VariantUnusable, match="missing or damaged"):
        registered(settings, variant)
    assert index_of(settings) == []
    assert not (settings.foundry / "custom").exists()


def test_variant_that_does_not_load_is_taken_back_and_the_one_before_is_the_alias(
    settings: Settings,
) -> None:
    registered(settings, publish(settings))
    with pytest.raises(VariantUnusable, match="Unknown value"):
        registered(settings, publish(settings, edited_config(no_such_key=1)))
    assert index_of(settings) == [f"{ALIAS}:1"]
    assert folders_of(settings) == ["v1"]


def request_for(settings: Settings, variant: Variant) -> RegisterRequest:
    return RegisterRequest(
        home=settings.home, alias=ALIAS, digest=variant.digest, question=QUESTION
    )


class OtherAnswers:
    """A reference that says something else than every model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def answer(self, messages: Sequence[Message], *, max_tokens: int) -> str:
        return f"not in {max_tokens} tokens to {len(messages)} messages"


def test_model_that_answers_unlike_its_files_is_taken_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "GreedyModel", OtherAnswers)
    with pytest.raises(ToolFailed, match="answers unlike ONNX Runtime GenAI"):
        register_child.register(request_for(settings, publish(settings)))
    assert index_of(settings) == []
    assert folders_of(settings) == []


def test_registered_files_that_were_changed_in_place_are_not_served_on(
    settings: Settings,
) -> None:
    variant = publish(settings)
    config = registered(settings, variant).path / "genai_config.json"
    text = config.read_text(encoding="utf-8")
    config.chmod(0o644)
    config.write_text(text.replace('"type": "qwen2"', '"type": "qwenX"'), encoding="utf-8")
    # The same inode as in the store, so there is nothing left to heal from.
    with pytest.raises(VariantUnusable, match="missing or damaged"):
        registered(settings, variant)
    assert index_of(settings) == []


@pytest.mark.parametrize("damage", ["{broken", "", '{"version": 99, "models": []}'])
def test_index_that_cannot_be_read_stops_and_stays(settings: Settings, damage: str) -> None:
    variant = publish(settings)
    index = settings.foundry / "foundry.local.modelinfo.json"
    index.parent.mkdir(parents=True)
    index.write_text(damage, encoding="utf-8")
    with pytest.raises(EnvironmentUnfit, match="do not delete it"):
        registered(settings, variant)
    assert index.read_text(encoding="utf-8") == damage


def test_question_longer_than_the_context_registers_nothing(settings: Settings) -> None:
    with pytest.raises(InputError, match="longer than the model's context"):
        register_champion("tiny", publish(settings), question("light " * 600), settings=settings)
    assert index_of(settings) == []


DIE_AT = """
import sys, time
from tasks.foundry import placement, proof, register_child, runtime
from tasks.foundry.register import RegisterRequest

def die(*_, **__):
    print("there", flush=True)
    time.sleep(60)

{plant}
register_child.register(RegisterRequest.model_validate_json(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("plant", "left"),
    [
        ("placement._seal_files = die", [".v1.partial"]),
        ("runtime.FoundryRuntime.register = die", ["v1"]),
        ("register_child.prove = die", ["v1"]),
    ],
    ids=["before the rename", "before the index", "before the proof"],
)
def test_killed_registration_is_made_good_by_the_next(
    settings: Settings, plant: str, left: list[str]
) -> None:
    variant = publish(settings)
    script = [sys.executable, "-c", DIE_AT.format(plant=plant)]
    with subprocess.Popen(
        [*script, request_for(settings, variant).model_dump_json()],
        stdout=subprocess.PIPE,
        env={**os.environ, **QUIET_ENVIRONMENT},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        process.send_signal(signal.SIGKILL)
    assert folders_of(settings) == left
    assert registered(settings, variant).model_id == f"{ALIAS}:1"
    assert folders_of(settings) == ["v1"]
    assert index_of(settings) == [f"{ALIAS}:1"]


def test_registered_folder_has_the_old_command_lines_file(settings: Settings) -> None:
    folder = registered(settings, publish(settings)).path
    content = json.loads((folder / "inference_model.json").read_text(encoding="utf-8"))
    assert content["Name"] == f"{ALIAS}:1"
    assert content["PromptTemplate"]["user"] == "<|im_start|>user\n{Content}<|im_end|>\n"


def test_going_back_makes_the_champion_before_what_the_alias_means(settings: Settings) -> None:
    variants = [publish(settings, edited_config(top_k=k)) for k in (5, 6)]
    for variant in variants:
        done = registered(settings, variant)
        record_champion(settings, "tiny", done, variant, run_id="r")
    back = roll_back("Tiny", run_id="back", settings=settings)
    assert (back.model_id, back.run_id) == (f"{ALIAS}:1", "back")
    assert champion_of(settings, "tiny") == back
    assert index_of(settings) == [f"{ALIAS}:1"]
    assert folders_of(settings) == ["v1", "v2"]
    with pytest.raises(InputError, match="no champion to go back to"):
        roll_back("tiny", run_id="back", settings=settings)
    assert registered(settings, variants[1]).model_id == f"{ALIAS}:2"
