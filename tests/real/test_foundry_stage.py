"""A variant in a throw-away index of the real Foundry Local, healthy and with planted faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tasks.core.errors import ResourceBusy
from tasks.core.records import Evidence, Message, Question
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.foundry import stage_child
from tasks.foundry.greedy import GreedyModel
from tasks.foundry.runtime import LoadedModel
from tasks.foundry.stage import Staged, StageRequest, examine_in_staging
from tests.foundry_variants import (
    checkpoint_record,
    publish,
    question,
    tiny_checkpoint,
    tiny_folder,
)

pytestmark = pytest.mark.real

QUESTIONS = [
    question("Turn on the light in the kitchen, please.", id="q1", category="light"),
    question("What is the temperature?", id="q2", category="heat"),
    question("naïve café 電気", id="q3", category="light"),
]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def values(found: Evidence | Staged) -> dict[str, float | None]:
    return {name.removeprefix("foundry."): each.value for name, each in found.metrics.items()}


def examined_here(tmp_path: Path, questions: list[Question]) -> Staged:
    """Examine the tiny folder in this process, where a fault can be planted in the examination."""
    index = tmp_path / "index"
    index.mkdir()
    return stage_child.examine(
        StageRequest(
            subject="a" * 64,
            folder=tiny_folder(),
            checkpoint=tiny_checkpoint(),
            index=index,
            questions=questions,
        )
    )


def test_healthy_variant_differs_nowhere_and_leaves_nothing_behind(settings: Settings) -> None:
    variant = publish(settings)
    said: list[str] = []
    evidence = examine_in_staging(
        checkpoint_record(tiny_checkpoint()),
        variant,
        QUESTIONS,
        load_cycles=4,
        settings=settings,
        say=said.append,
    )
    found = values(evidence)
    growth = evidence.metrics["foundry.reload_growth_bytes"]
    assert found.pop("reload_growth_bytes") == growth.value
    assert set(found.values()) == {0.0}, evidence.notes
    assert (growth.n, growth.unit, growth.ci95 is not None) == (4, "B", True)
    assert evidence.metrics["foundry.token_mismatches"].n > len(QUESTIONS)
    assert evidence.metrics["foundry.session_mismatches"].n == len(QUESTIONS)
    assert evidence.metrics["foundry.edge_failures"].n > 60
    assert evidence.subject == variant.digest
    assert said
    frames = Store(settings.store).path(evidence.frames or "")
    assert sorted(file.name for file in frames.glob("*.parquet")) == [
        "foundry_cycles.parquet",
        "foundry_edge.parquet",
    ]
    assert list(settings.foundry_staging.iterdir()) == []
    assert Store(settings.store).is_intact(variant.digest, deep=True)
    assert not settings.foundry.exists()


def broken_evidence(settings: Settings, file: str, content: str | None) -> Evidence:
    def plant(folder: Path) -> None:
        (folder / file).unlink()
        if content is not None:
            (folder / file).write_text(content, encoding="utf-8")

    return examine_in_staging(
        checkpoint_record(tiny_checkpoint()),
        publish(settings, plant),
        QUESTIONS,
        settings=settings,
    )


def test_other_template_than_the_checkpoints_is_counted(settings: Settings) -> None:
    template = (tiny_folder() / "chat_template.jinja").read_text(encoding="utf-8")
    untrimmed = template.replace("-%}", "%}\n").replace("{%-", "{%")
    evidence = broken_evidence(settings, "chat_template.jinja", untrimmed)
    mismatches = evidence.metrics["foundry.token_mismatches"]
    assert mismatches.value == mismatches.n
    assert "tokens in Foundry Local" in evidence.notes[0]


def test_missing_template_is_recorded_in_the_runtimes_words(settings: Settings) -> None:
    evidence = broken_evidence(settings, "chat_template.jinja", None)
    assert values(evidence)["session_mismatches"] is None
    assert "Empty chat template" in evidence.metrics["foundry.http_mismatches"].method
    assert (values(evidence)["token_mismatches"] or 0) > 0


def test_key_that_the_runtime_does_not_know_is_recorded_as_a_failed_load(
    settings: Settings,
) -> None:
    config = json.loads((tiny_folder() / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["prompt_templates"] = {}
    evidence = broken_evidence(settings, "genai_config.json", json.dumps(config))
    assert set(values(evidence).values()) == {None}
    assert "Unknown value" in evidence.notes[0]
    assert "Unknown value" in evidence.metrics["foundry.edge_failures"].method
    assert evidence.frames is None


def test_graph_that_cannot_answer_is_evidence_and_no_fault_of_the_service(
    settings: Settings,
) -> None:
    config = json.loads((tiny_folder() / "genai_config.json").read_text(encoding="utf-8"))
    config["model"]["vocab_size"] = 7  # loads and counts; the web service would answer 500
    evidence = broken_evidence(settings, "genai_config.json", json.dumps(config))
    assert values(evidence) == {
        "token_mismatches": 0.0,
        "session_mismatches": None,
        "stream_mismatches": None,
        "http_mismatches": None,
        "edge_failures": None,
        "reload_growth_bytes": None,
    }
    assert "invalid dimensions" in evidence.metrics["foundry.http_mismatches"].method


@pytest.mark.parametrize("broken", ["start_web_service", "get_catalog"])
def test_runtime_that_does_not_start_is_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    import foundry_local_sdk as sdk

    def refuse(*_: object) -> None:
        raise sdk.FoundryLocalException("no free port", error_code=2)

    monkeypatch.setattr(sdk.FoundryLocalManager, broken, refuse)
    with pytest.raises(ResourceBusy, match="no free port"):
        examined_here(tmp_path, QUESTIONS[:1])


def test_web_service_that_is_out_of_order_is_no_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.foundry.endpoint.LOCAL_CATALOG", "/catalogs/none")
    monkeypatch.setattr("tasks.foundry.endpoint._MAY_HEAL", (404,))
    with pytest.raises(ResourceBusy, match="status 404"):
        examined_here(tmp_path, QUESTIONS[:1])


def other_weights(folder: Path) -> Path:
    shutil.copytree(tiny_folder(), folder)
    weights = bytearray((folder / "model.onnx.data").read_bytes())
    weights[20_000:60_000] = weights[60_000:100_000]
    (folder / "model.onnx.data").write_bytes(weights)
    return folder


def test_runtime_that_serves_other_weights_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_weights(tmp_path / "other")
    monkeypatch.setattr(stage_child, "GreedyModel", lambda folder: GreedyModel(other))
    found = values(examined_here(tmp_path, QUESTIONS))
    assert (found["session_mismatches"] or 0) > 0
    assert (found["http_mismatches"] or 0) > 0
    assert found["stream_mismatches"] == 0


def test_stream_that_loses_a_piece_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = LoadedModel.stream
    monkeypatch.setattr(LoadedModel, "stream", lambda *a, **k: list(stream(*a, **k))[1:])
    found = values(examined_here(tmp_path, QUESTIONS))
    assert (found["stream_mismatches"] or 0) > 0
    assert found["session_mismatches"] == 0


def test_answer_may_fill_the_context_and_a_question_that_overflows_it_is_left_out(
    tmp_path: Path,
) -> None:
    nearly_full = question("light " * 240, id="long")
    overflowing = question("light " * 600, id="longer")
    evidence = examined_here(tmp_path, [nearly_full, overflowing])
    assert evidence.metrics["foundry.session_mismatches"].n == 1
    assert values(evidence)["http_mismatches"] == 0.0


def test_nothing_to_ask_is_not_a_pass(tmp_path: Path) -> None:
    staged = examined_here(tmp_path, [])
    found = values(staged)
    assert found["session_mismatches"] is None
    assert found["http_mismatches"] is None
    assert found["token_mismatches"] == 0.0
    assert all(one.is_settled() for one in staged.metrics.values())  # nor would it be another time


def test_checkpoint_whose_template_renders_nothing_is_not_a_pass(tmp_path: Path) -> None:
    conversations = {"one": [Message(role="user", content="x")]}
    refused: dict[str, int | str] = dict.fromkeys(conversations, "no template")
    measurement, notes = stage_child._compare_counts(refused, refused)
    assert (measurement.value, measurement.final) == (None, True)
    assert notes
