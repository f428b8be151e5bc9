"""When a release stands as it is, and what makes the command release anew.

The steps of the release are fakes; `tests/real/test_release_command.py` has the real ones.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows import unchanged
from flows.parameters import ReleaseRequest
from flows.preflight import check_request
from flows.release import release
from flows.unchanged import unchanged_release
from tasks.core.errors import VariantUnusable
from tasks.core.records import PackageVersion, Precision, Release
from tasks.core.settings import Settings
from tasks.foundry.ledger import append_champion, champion_of
from tests.release_workshop import SIZES, Workshop, opened_workshop

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    # Its fakes register nothing; `test_foundry_register.py` looks into a real index.
    monkeypatch.setattr(unchanged, "is_in_place", lambda champion, settings: True)
    return opened_workshop(monkeypatch)


@pytest.fixture
def request_for(
    tmp_path: Path, demo_checkpoint: Path, demo_questions: Path
) -> Callable[..., ReleaseRequest]:
    checkpoint = shutil.copytree(demo_checkpoint, tmp_path / "checkpoint")
    fields = {"checkpoint": checkpoint, "questions": demo_questions, "name": "demo"}
    return lambda **changes: ReleaseRequest.model_validate({**fields, **changes})


def released(request: ReleaseRequest) -> Release:
    found = release(request)
    assert isinstance(found, Release)
    return found


def found(request: ReleaseRequest) -> Release | None:
    return unchanged_release(request, check_request(request), Settings())


def test_nothing_stands_before_the_first_release(request_for: Any) -> None:
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
def test_a_release_of_which_nothing_changed_stands(request_for: Any) -> None:
    first = released(request_for())
    again = found(request_for())
    assert again is not None
    assert (again.run_id, again.registration) == (first.run_id, first.registration)


def test_a_refusal_stands_too(workshop: Workshop, request_for: Any) -> None:
    workshop.bad = dict.fromkeys(SIZES, "template.text_mismatches")
    refused = release(request_for(), return_state=True)
    again = found(request_for())
    assert refused.name == "Refused"
    assert again is not None
    assert again.registration is None


def test_what_another_try_may_mend_does_not_stand(workshop: Workshop, request_for: Any) -> None:
    workshop.fail("build int8", VariantUnusable("does not load"))
    release(request_for(), return_state=True)
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
def test_note_that_cannot_be_written_stops_no_release(request_for: Any, ingot_home: Path) -> None:
    Settings().made.write_text("a file where the folder should be")
    assert released(request_for()).registration is not None
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize(
    "changes",
    [
        {"precisions": [Precision.INT4]},
        {"profile": "small"},
        {"builder": "plain"},
        {"examination": "smoke"},
        {"name": "other"},
        {"approval": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_request_is_released(request_for: Any, changes: dict[str, object]) -> None:
    released(request_for())
    assert found(request_for(**changes)) is None


@pytest.mark.usefixtures("workshop")
def test_other_files_of_the_user_are_released(
    request_for: Any, demo_questions: Path, tmp_path: Path
) -> None:
    released(request_for())
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(demo_questions.read_text().splitlines()[:10]) + "\n")
    assert found(request_for(questions=fewer)) is None
    policy = tmp_path / "policy.toml"
    policy.write_text('[gates."answers.flip_rate"]\nmax = 0.5\n')
    assert found(request_for(policy=policy)) is None


def rewrite_weights(checkpoint: Path) -> None:
    (file,) = checkpoint.glob("*.safetensors")
    file.write_bytes(file.read_bytes())


def add_template(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text("{}")


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize("change", [rewrite_weights, add_template])
def test_checkpoint_that_was_touched_is_released(
    request_for: Any, change: Callable[[Path], None]
) -> None:
    released(request_for())
    change(request_for().checkpoint)
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
def test_bytes_count_and_not_the_times_of_files(
    request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(request_for())
    before = unchanged.file_states(request_for().checkpoint)
    (file,) = request_for().checkpoint.glob("*.safetensors")
    weights = bytearray(file.read_bytes())
    weights[-1] ^= 1
    file.write_bytes(weights)
    monkeypatch.setattr(unchanged, "file_states", lambda folder: before)
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
def test_another_ingot_package_or_machine_releases(
    request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(request_for())
    other = [PackageVersion(name="onnxruntime", installed="9.9", pinned="==9.9", matches=True)]
    fakes: dict[str, Callable[..., Any]] = {
        "_sources_digest": lambda: "other sources",
        "compare_packages": lambda pins: other,
        "machine_class": lambda cpu, packages: "another machine",
    }
    for name, fake in fakes.items():
        with monkeypatch.context() as patch:
            patch.setattr(unchanged, name, fake)
            assert found(request_for()) is None, name
    assert found(request_for()) is not None


@pytest.mark.usefixtures("workshop")
def test_another_champion_releases(request_for: Any) -> None:
    released(request_for())
    champion = champion_of(Settings(), "demo")
    assert champion is not None
    other = champion.model_copy(update={"model_id": "demo-int4-cpu:2"})
    append_champion(Settings(), "demo", other)
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
def test_champion_that_is_gone_from_foundry_local_releases(
    request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(request_for())
    monkeypatch.setattr(unchanged, "is_in_place", lambda champion, settings: False)
    assert found(request_for()) is None


@pytest.mark.usefixtures("workshop")
@pytest.mark.parametrize("what", ["note", "metrics", "report"])
def test_damaged_evidence_releases(request_for: Any, what: str) -> None:
    first = released(request_for())
    if what == "report":
        first.report.unlink()
    else:
        note = Settings().made / "demo.json"
        file = note if what == "note" else first.report.with_name("metrics.json")
        file.write_text(file.read_text()[:100])
    assert found(request_for()) is None
