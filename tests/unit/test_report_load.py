"""What was written can be read back, of this version and the one before; all else is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tasks.core.errors import InputError
from tasks.core.records import Measurement
from tasks.report.load import load_run
from tasks.report.metrics_json import metrics_json
from tests.golden.sample_release import INT4, sample_dossier, sample_release

FRAME = pd.DataFrame({"variant_id": [INT4], "right": [True]})


def write_run(folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None) -> Path:
    document = json.loads(metrics_json(sample_dossier()))
    change(document)
    (folder / "metrics.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def as_first_version(document: dict[str, Any]) -> None:
    document |= {"schema": "ingot.release/1"}
    del document["index"]
    for part in document["evidence"]:
        del part["metrics"]
    document["frames"]["rows"] = {"answers": 800}


def test_run_comes_back_as_the_records_it_was_written_from(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    dossier = sample_dossier()
    assert run.release == sample_release()
    assert run.timings == dossier.timings
    assert run.evidence == dossier.evidence
    assert (run.policy_digest, run.written_at) == (dossier.policy_digest, dossier.written_at)
    assert {gate.gate for gate in run.gates} >= {"flip_rate", "kld_mean"}


def test_frames_are_named_and_read_when_asked_for(tmp_path: Path) -> None:
    run = load_run(write_run(tmp_path))
    assert run.frames == []
    FRAME.to_parquet(tmp_path / "outputs.parquet")
    assert run.frames == ["outputs"]
    assert run.frame("outputs")["right"].tolist() == [True]


def test_frame_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "kld.parquet")
    with pytest.raises(InputError, match=r"no frame 'memory'\. Expected: one of kld\."):
        load_run(write_run(tmp_path)).frame("memory")


def test_damaged_frame_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kld.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        load_run(write_run(tmp_path)).frame("kld")


def test_first_version_is_read_and_its_answers_are_called_outputs(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "answers.parquet")
    run = load_run(write_run(tmp_path, as_first_version))
    assert run.release == sample_release()
    assert (run.document.index, run.document.frames.rows) == (None, {"outputs": 800})
    assert run.frames == ["outputs"]
    assert len(run.frame("outputs")) == 1


def test_unknown_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    write_run(tmp_path, lambda document: document.update(schema="ingot.release/3"))
    with pytest.raises(InputError, match=r"'ingot.release/3', which .* Next: read it with"):
        load_run(tmp_path)


def test_document_without_a_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="schema None"):
        load_run(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "not json"])
def test_file_that_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        load_run(tmp_path)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder of a run"):
        load_run(tmp_path / "nowhere")


def test_damaged_document_is_refused_with_the_place(tmp_path: Path) -> None:
    write_run(tmp_path, lambda document: document["release"].update(seconds="long"))
    with pytest.raises(InputError, match=r"is damaged: release\.seconds"):
        load_run(tmp_path)


def test_bound_that_is_null_is_no_bound(tmp_path: Path) -> None:
    dossier = sample_dossier()
    endless = {INT4: {"a.b": Measurement(value=2.0, ci95=(1.0, math.inf))}}
    release = dossier.release.model_copy(update={"metrics": endless})
    text = metrics_json(dossier.model_copy(update={"release": release}))
    (tmp_path / "metrics.json").write_text(text, encoding="utf-8")
    assert load_run(tmp_path).metrics == endless
