"""What the UI shows of releases: one timeline of all, one of each model, in a page that is seen."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prefect import flow
from prefect.artifacts import Artifact

from flows.artifacts import key_of_name, show_release
from tasks.core.records import Release
from tests.golden.sample_release import sample_release

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]


@flow
def show(*releases: Release) -> None:
    for one in releases:
        show_release(one)


def newest(key: str) -> tuple[list[dict[str, Any]], str]:
    found: Any = Artifact.get(key)
    return json.loads(str(found.data)), str(found.description)


def test_newest_entry_of_a_models_timeline_holds_the_ones_before() -> None:
    first = sample_release().model_copy(update={"name": "timeline-a", "run_id": "run-1"})
    second = first.model_copy(update={"run_id": "run-2", "registration": None})
    other = first.model_copy(update={"name": "timeline-b", "run_id": "run-3"})
    show(first, other, second)
    rows, shown = newest("ingot-releases-timeline-a")
    assert [row["run"] for row in rows] == ["run-2", "run-1"]
    assert [row["outcome"] for row in rows] == ["INT8 could not be registered", "INT8 ships"]
    lines = shown.splitlines()
    assert len(lines) == 4  # heading, rule, two releases
    assert "could not be registered" in lines[2]
    everything, _ = newest("ingot-releases")
    assert [row["run"] for row in everything[:3]] == ["run-2", "run-3", "run-1"]


def test_text_of_a_name_breaks_no_table() -> None:
    show(sample_release().model_copy(update={"name": "pipe|name"}))
    _, shown = newest("ingot-releases")
    assert r"pipe\|name" in shown


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("demo", "ingot-releases-demo"),
        ("My_Model.v2", "ingot-releases-my-model-v2"),
        ("a--b", "ingot-releases-a-b"),
    ],
)
def test_key_is_one_that_prefect_takes(name: str, key: str) -> None:
    assert key_of_name(name) == key
