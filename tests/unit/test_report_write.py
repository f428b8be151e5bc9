"""A run's folder is complete or absent, and its numbers can be read back as they were."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.errors import InputError, ToolFailed
from tasks.core.records import Digest, Evidence, Measurement, Precision, Release
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.report import write
from tasks.report.frames import FrameSource, FramesRequest, collect_frames, measurement_rows
from tasks.report.metrics_json import metrics_json
from tasks.report.write import report_folder, write_report
from tests.golden.sample_release import (
    INT4,
    INT8,
    healthy_metrics,
    sample_dossier,
    sample_release,
)

RUN = sample_release().run_id


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


@pytest.fixture(autouse=True)
def page_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child takes seconds to draw; tests/real/test_report_html.py has the whole."""
    monkeypatch.setattr(write, "write_page", lambda *_: None)


def published(settings: Settings, **frames: pd.DataFrame) -> Digest:
    store = Store(settings.store)
    with store.staging() as folder:
        for kind, frame in frames.items():
            frame.to_parquet(folder / f"{kind}.parquet")
        return store.publish(folder)


def evidence_of(
    settings: Settings, subject: Digest, suite: str, **frames: pd.DataFrame
) -> Evidence:
    return Evidence(suite=suite, subject=subject, metrics={}, frames=published(settings, **frames))


def collected(settings: Settings, target: Path, *evidence: Evidence) -> FramesRequest:
    target.mkdir()
    return FramesRequest(
        run_id=RUN,
        store=settings.store,
        sources=[
            FrameSource(suite=part.suite, subjects=[part.subject], frames=part.frames)
            for part in evidence
            if part.frames
        ],
        measurements=measurement_rows(
            {INT4: {"a.b": Measurement(value=None, method="why"), **healthy_metrics()}},
            {INT4: Precision.INT4},
        ),
        target=target,
    )


def test_folder_holds_report_numbers_and_raw_rows(settings: Settings) -> None:
    answers = pd.DataFrame({"question_id": ["q1", "q2"], "right": [True, False]})
    evidence = [
        evidence_of(settings, INT4, "answers", answers=answers),
        evidence_of(settings, INT8, "answers", answers=answers),
    ]
    folder = write_report(sample_release(), evidence, settings=settings)
    assert folder == settings.runs / RUN
    assert {file.name for file in folder.iterdir()} == {
        "report.md", "metrics.json", "outputs.parquet", "metrics.parquet",
    }  # fmt: skip
    assert [entry.name for entry in settings.runs.iterdir()] == [RUN]
    assert "outputs.parquet: 4 rows" in (folder / "report.md").read_text(encoding="utf-8")


def test_failed_writing_leaves_no_finished_folder_and_can_be_retried(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*_: object) -> str:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(write, "render_report", no_space)
        with pytest.raises(OSError, match="No space"):
            write_report(sample_release(), [], settings=settings)
    assert not (settings.runs / RUN).exists()
    assert write_report(sample_release(), [], settings=settings).is_dir()
    assert [entry.name for entry in settings.runs.iterdir()] == [RUN]


def test_run_that_is_written_again_replaces_its_folder(settings: Settings) -> None:
    first = write_report(sample_release(), [], settings=settings)
    (first / "stale.parquet").touch()
    later = sample_release().model_copy(update={"seconds": 999.0})
    second = write_report(later, [], settings=settings)
    assert second == first
    assert "999.0" in (second / "report.md").read_text(encoding="utf-8")
    assert not (second / "stale.parquet").exists()
    assert [entry.name for entry in settings.runs.iterdir()] == [RUN]


@pytest.mark.parametrize("run_id", ["", "..", "../other", "a/b", ".hidden", "a b", "x.partial"])
def test_run_that_names_no_plain_folder_is_refused(settings: Settings, run_id: str) -> None:
    with pytest.raises(InputError, match="cannot name a folder"):
        report_folder(settings, run_id)


def test_rows_of_all_variants_come_together_with_columns_that_tell_them_apart(
    settings: Settings, tmp_path: Path
) -> None:
    four = evidence_of(settings, INT4, "speed", samples=pd.DataFrame({"n": [1], "ttft_s": [0.5]}))
    eight = evidence_of(settings, INT8, "staging", samples=pd.DataFrame({"n": [2, 3]}))
    request = collected(settings, tmp_path / "run", four, eight)
    assert collect_frames(request).rows["samples"] == 3
    frame = pd.read_parquet(request.target / "samples.parquet")
    assert list(frame.columns) == ["run_id", "variant_id", "suite", "n", "ttft_s"]
    assert frame["variant_id"].tolist() == [INT4, INT8, INT8]
    assert frame["suite"].tolist() == ["speed", "staging", "staging"]
    assert frame["n"].dtype == "int64"
    assert frame["ttft_s"].isna().tolist() == [False, True, True]


def test_lists_and_foreign_run_ids_survive_and_are_replaced(
    settings: Settings, tmp_path: Path
) -> None:
    rows = pd.DataFrame({"run_id": ["older"], "tokens": [[1, 2, 3]]}, index=[7])
    request = collected(settings, tmp_path / "run", evidence_of(settings, INT4, "a", answers=rows))
    collect_frames(request)
    frame = pd.read_parquet(request.target / "outputs.parquet")
    assert frame["run_id"].tolist() == [RUN]
    assert frame["tokens"][0].tolist() == [1, 2, 3]


def test_rows_of_variants_that_were_timed_together_are_taken_once(settings: Settings) -> None:
    samples = pd.DataFrame({"digest": [INT4, INT8, INT4], "lane": ["int4", "int8", "control"]})
    frames = published(settings, samples=samples, load=pd.DataFrame({"lane": ["int4"]}))
    speed = [
        Evidence(suite="speed", subject=subject, metrics={}, frames=frames)
        for subject in (INT4, INT8)
    ]
    folder = write_report(sample_release(), speed, settings=settings)
    frame = pd.read_parquet(folder / "samples.parquet")
    assert frame["variant_id"].tolist() == [INT4, INT8, INT4]
    assert pd.read_parquet(folder / "load.parquet")["variant_id"].isna().all()


def test_all_measurements_become_a_frame_with_missing_ones_as_null(
    settings: Settings, tmp_path: Path
) -> None:
    request = collected(settings, tmp_path / "run")
    collect_frames(request)
    frame = pd.read_parquet(request.target / "metrics.parquet").set_index("metric")
    assert len(frame) == len(healthy_metrics()) + 1
    assert frame.loc["answers.flip_rate", "ci95_high"] == 0.014
    assert frame.loc["answers.flip_rate", "precision"] == "int4"
    assert math.isnan(frame.loc["a.b", "value"])
    assert frame.loc["a.b", "method"] == "why"


def test_raw_rows_that_are_gone_or_damaged_are_named_not_passed_over(
    settings: Settings, tmp_path: Path
) -> None:
    gone = Evidence(suite="answers", subject=INT4, metrics={}, frames="d" * 64)
    damaged = evidence_of(settings, INT8, "kld", kld=pd.DataFrame({"kld": [0.1]}))
    empty = evidence_of(settings, INT8, "speed")
    file = next(Store(settings.store).path(str(damaged.frames)).glob("*.parquet"))
    file.chmod(0o644)
    file.write_bytes(bytes(reversed(file.read_bytes())))
    summary = collect_frames(collected(settings, tmp_path / "run", gone, damaged, empty))
    assert [line.split(" of ")[0] for line in summary.missing] == ["answers", "kld", "speed"]
    assert set(summary.rows) == {"metrics"}


def test_policy_of_the_verdict_is_in_both_files(settings: Settings) -> None:
    folder = write_report(sample_release(), [], settings=settings, policy_digest="e" * 64)
    document = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    assert document["policy_digest"] == "e" * 64
    assert "policy `eeeeeeeeeeee`)." in (folder / "report.md").read_text(encoding="utf-8")


def test_interval_without_an_end_reaches_the_child_and_the_frame(tmp_path: Path) -> None:
    endless = {INT4: {"a.b": Measurement(value=2.0, ci95=(1.0, math.inf))}}
    request = FramesRequest(
        run_id=RUN,
        store=tmp_path,
        sources=[],
        measurements=measurement_rows(endless, {}),
        target=tmp_path,
    )
    collect_frames(FramesRequest.model_validate_json(request.model_dump_json()))
    assert pd.read_parquet(tmp_path / "metrics.parquet")["ci95_high"].tolist() == [math.inf]


def test_document_that_does_not_meet_its_schema_is_refused_and_nothing_is_published(
    settings: Settings,
) -> None:
    release = sample_release().model_copy(update={"seconds": math.nan})
    with pytest.raises(
        ToolFailed, match=r"schema ingot.release/2: \$.release.seconds: None is not"
    ):
        write_report(release, [], settings=settings)
    assert not (settings.runs / RUN).exists()


def test_reference_keeps_its_metrics_and_variants_do_not_repeat_theirs() -> None:
    dossier = sample_dossier()
    parts = [
        Evidence(suite="reference", subject=subject, metrics={"a.b": Measurement(value=1.0)})
        for subject in (INT4, "9" * 64)
    ]
    document = json.loads(metrics_json(dossier.model_copy(update={"evidence": parts})))
    assert [sorted(part["metrics"]) for part in document["evidence"]] == [[], ["a.b"]]


def test_metrics_json_gives_the_release_back() -> None:
    document = json.loads(metrics_json(sample_dossier()))
    assert document["schema"] == "ingot.release/2"
    assert Release.model_validate(document["release"]) == sample_release()


def test_metrics_json_lists_every_gate_flat_with_its_variant() -> None:
    gates = json.loads(metrics_json(sample_dossier()))["gates"]
    assert len(gates) == sum(len(v.gates) for v in sample_release().judgement.verdicts)
    flips = [gate for gate in gates if gate["gate"] == "flip_rate"]
    assert [(g["precision"], g["verdict"], g["measurement"]["value"]) for g in flips] == [
        ("int4", "FAIL", 0.16),
        ("int8", "PASS", 0.005),
    ]


def test_metrics_json_is_the_same_whatever_the_order_of_measuring() -> None:
    dossier = sample_dossier()
    metrics = dossier.release.metrics
    turned = {d: dict(reversed(metrics[d].items())) for d in reversed(metrics)}
    release = dossier.release.model_copy(update={"metrics": turned})
    assert metrics_json(dossier.model_copy(update={"release": release})) == metrics_json(dossier)


def test_metrics_json_writes_null_for_what_is_not_a_number() -> None:
    dossier = sample_dossier()
    metrics = {INT4: {"speed.ttft_s": Measurement(value=math.nan, ci95=(0.0, math.inf))}}
    release = dossier.release.model_copy(update={"metrics": metrics})
    text = metrics_json(dossier.model_copy(update={"release": release}))
    found = json.loads(text)["release"]["metrics"][INT4]["speed.ttft_s"]
    assert (found["value"], found["ci95"]) == (None, [0.0, None])
