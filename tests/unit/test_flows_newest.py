"""Which checkpoint of a folder is released next, and which are passed over."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.command import app
from flows.newest import candidates, newest_without_verdict, nothing_new
from flows.parameters import ReleaseRequest
from tasks.checkpoint import known_digests
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.errors import InputError
from tasks.core.records import Checkpoint, Registration
from tasks.core.settings import Settings
from tests.golden.sample_release import INT4, sample_release
from tests.sample_checkpoint import write_sample_checkpoint
from tests.sample_runs import write_run

DAY_S = 86_400


@pytest.fixture
def landing(ingot_home: Path) -> Path:
    """Give the folder that the nightly deployment searches."""
    return ingot_home / "landing"


def landed(folder: Path, *, day: int, seed: int = 0) -> Path:
    """Write a checkpoint whose weights are as old as that."""
    write_sample_checkpoint(folder, seed=seed)
    os.utime(folder / "model.safetensors", (day * DAY_S, day * DAY_S))
    return folder


def chosen(folder: Path, **fields: object) -> ReleaseRequest | None:
    request = ReleaseRequest.model_validate({"checkpoint": folder, "newest": True, **fields})
    return newest_without_verdict(request, Settings())


def give_verdict(folder: Path, **changes: object) -> Checkpoint:
    """Leave the evidence of a run that judged this checkpoint."""
    checkpoint = admit_checkpoint(folder, name="x")
    run = f"2026-{len(list(Settings().runs.glob('*')))}"
    write_run(Settings(), run, {}, checkpoint=checkpoint, **changes)
    return checkpoint


def test_newest_goes_first_and_gives_the_first_folder_as_the_name(landing: Path) -> None:
    landed(landing / "Alpha Bot", day=1)
    newest = landed(landing / "beta" / "run-7", day=3, seed=1)
    landed(landing / "beta" / "run-9", day=2, seed=2)
    request = chosen(Path("landing"), examination="smoke")
    assert request is not None
    assert request.checkpoint == newest
    assert request.name == "beta"
    assert request.examination == "smoke"
    assert not request.newest


def test_folder_name_becomes_one_that_foundry_takes(landing: Path) -> None:
    landed(landing / "Alpha Bot", day=1)
    request = chosen(landing)
    assert request is not None
    assert request.name == "alpha-bot"


def test_given_name_is_kept(landing: Path) -> None:
    landed(landing / "checkpoint-500", day=1)
    request = chosen(landing, name="bot")
    assert request is not None
    assert request.name == "bot"


def test_equal_times_are_decided_by_the_number_in_the_name(landing: Path) -> None:
    for step in (900, 1000, 50):
        landed(landing / "bot" / f"step-{step}", day=1, seed=step)
    assert [one.path.name for one in candidates(landing)] == ["step-1000", "step-900", "step-50"]


def test_a_verdict_of_the_same_bytes_passes_a_checkpoint_over(landing: Path) -> None:
    older = landed(landing / "a", day=1, seed=1)
    newer = landed(landing / "b", day=2, seed=2)
    give_verdict(newer)
    request = chosen(landing)
    assert request is not None
    assert request.checkpoint == older
    give_verdict(older)
    assert chosen(landing) is None


def test_a_copy_of_what_was_judged_is_not_new(landing: Path) -> None:
    give_verdict(landed(landing.parent / "elsewhere", day=1))
    landed(landing / "copy", day=9)
    assert chosen(landing) is None


def test_what_the_machine_kept_from_its_end_is_no_verdict(landing: Path) -> None:
    folder = landed(landing / "a", day=1)
    faults = {"failures": {"speed": "no memory"}, "environment_faults": ["speed"]}
    give_verdict(folder, **faults)
    assert chosen(landing) is not None


def test_what_was_registered_has_a_verdict_whatever_failed_beside_it(landing: Path) -> None:
    folder = landed(landing / "a", day=1)
    registered: Registration | None = sample_release().registration
    assert registered is not None
    registration = registered.model_copy(update={"variant": INT4})
    give_verdict(folder, environment_faults=["soak"], registration=registration)
    assert chosen(landing) is None


def test_evidence_that_cannot_be_read_counts_for_nothing(
    landing: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = landed(landing / "a", day=1)
    give_verdict(folder)
    (metrics,) = Settings().runs.glob("*/metrics.json")
    metrics.write_text(metrics.read_text()[:-90])
    with caplog.at_level(logging.WARNING):
        assert chosen(landing) is not None
    assert str(metrics) in caplog.text


def test_report_that_is_still_written_counts_for_nothing(landing: Path) -> None:
    give_verdict(landed(landing / "a", day=1))
    (run,) = Settings().runs.iterdir()
    run.rename(run.with_suffix(".partial"))
    assert chosen(landing) is not None


def test_folder_without_weights_yet_waits(landing: Path) -> None:
    (landed(landing / "half", day=2) / "model.safetensors").unlink()
    assert chosen(landing) is None


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_half_a_copy_is_passed_over_and_named(
    landing: Path, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    whole = landed(landing / "whole", day=1)
    half = landed(landing / "half", day=2, seed=1)
    (half / missing).unlink()
    with caplog.at_level(logging.WARNING):
        request = chosen(landing)
    assert request is not None
    assert request.checkpoint == whole
    assert f"passed over {half}" in caplog.text


def test_cut_off_weights_are_passed_over(landing: Path) -> None:
    weights = landed(landing / "half", day=2) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert chosen(landing) is None


def test_hidden_folders_and_those_being_made_are_not_looked_into(landing: Path) -> None:
    for name in (".trash", "next.partial", "next.tmp"):
        landed(landing / name, day=1)
    assert candidates(landing) == []


def test_trainers_own_checkpoints_below_a_checkpoint_are_left_alone(landing: Path) -> None:
    final = landed(landing / "bot", day=1)
    landed(final / "checkpoint-500", day=2, seed=1)
    assert [one.path for one in candidates(landing)] == [final]


def test_missing_folder_is_refused_and_an_empty_one_has_nothing_new(landing: Path) -> None:
    request = ReleaseRequest.model_validate({"checkpoint": "landing", "newest": True})
    with pytest.raises(InputError, match=f"no folder {landing}"):
        chosen(Path("landing"))
    landing.mkdir(parents=True)
    assert chosen(Path("landing")) is None
    assert str(landing) in nothing_new(request, Settings())


def test_a_checkpoint_in_place_of_the_folder_is_refused(landing: Path) -> None:
    with pytest.raises(InputError, match="is a checkpoint itself"):
        chosen(landed(landing, day=1))


def test_checkpoints_are_read_once_and_again_when_they_change(
    landing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def admit(path: Path, **options: str) -> Checkpoint:
        read.append(path)
        return admit_checkpoint(path, **options)

    monkeypatch.setattr(known_digests, "admit_checkpoint", admit)
    folder = landed(landing / "a", day=1)
    give_verdict(folder)
    for _ in range(2):
        assert chosen(landing) is None
    assert read == [folder]

    written = (folder / "model.safetensors").stat()
    write_sample_checkpoint(landing.parent / "other", seed=5)
    (folder / "model.safetensors").write_bytes(
        (landing.parent / "other" / "model.safetensors").read_bytes()
    )
    os.utime(folder / "model.safetensors", ns=(written.st_atime_ns, written.st_mtime_ns))
    assert chosen(landing) is not None  # same size, same time of writing, other bytes
    assert read == [folder, folder]


def test_damaged_memory_costs_time_only(landing: Path) -> None:
    landed(landing / "a", day=1)
    assert chosen(landing) is not None
    memory = Settings().home / "known-checkpoints.json"
    memory.write_text("{")
    assert chosen(landing) is not None
    assert "digest" in memory.read_text()


def test_command_says_that_nothing_is_new_and_that_this_is_no_fault(landing: Path) -> None:
    give_verdict(landed(landing / "a", day=1))
    told = CliRunner().invoke(app, ["release", str(landing), "--newest"])
    assert told.exit_code == 0
    assert "no checkpoint without a verdict" in told.stderr
    told = CliRunner().invoke(app, ["release", str(landing), "--newest", "--json"])
    assert '"nothing_new"' in told.stdout


def test_command_refuses_a_folder_that_is_not_there(landing: Path) -> None:
    told = CliRunner().invoke(app, ["release", str(landing / "no"), "--newest"])
    assert told.exit_code == 2
