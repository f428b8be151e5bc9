"""When a release stands as it is, and what makes the command release anew.

That a run of the flow notes itself is in `tests/flow/test_release_flow.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows import unchanged
from flows.parameters import ReleaseRequest
from flows.preflight import check_request
from flows.unchanged import note_release, unchanged_release
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.records import PackageVersion, Precision, Registration, Release
from tasks.core.settings import Settings
from tasks.foundry.ledger import append_champion, champion_of, record_champion
from tasks.report.load import load_run
from tests.golden.sample_release import INT4, variant
from tests.sample_runs import write_run

RUN = "20261120T080000Z-demo-aaaaaaaa"


@dataclass
class Scene:
    """A home in which the demo checkpoint may have been released."""

    settings: Settings
    fields: dict[str, object]

    @property
    def checkpoint(self) -> Path:
        return Path(str(self.fields["checkpoint"]))

    @property
    def note(self) -> Path:
        return self.settings.made / "demo.json"

    def released(self, *, registers: bool = True, **changes: object) -> Release:
        """Leave behind what a release leaves: a run, a champion, and the note."""
        registration = Registration(
            model_id="demo-int4-cpu:1", variant=INT4, path=self.settings.home, created=True,
            question="", answer="", right=True,
        )  # fmt: skip
        if registers:
            champion = variant(INT4, Precision.INT4, 1)
            record_champion(self.settings, "demo", registration, champion, run_id=RUN)
        folder = self.settings.runs / RUN
        checkpoint = admit_checkpoint(self.checkpoint, name="demo")
        told = {
            "name": "demo",
            "checkpoint": checkpoint,
            "report": folder / "report.html",
            "failures": {},
            "registration": registration if registers else None,
            **changes,
        }
        write_run(self.settings, RUN, {}, **told)
        (folder / "report.html").write_text("a report")
        release = load_run(folder).release
        note_release(check_request(self.request()), release, self.settings)
        return release

    def request(self, **changes: object) -> ReleaseRequest:
        return ReleaseRequest.model_validate({**self.fields, **changes})

    def found(self, **changes: object) -> Release | None:
        request = self.request(**changes)
        return unchanged_release(request, check_request(request), self.settings)


@pytest.fixture
def scene(
    tmp_path: Path,
    ingot_home: Path,
    demo_checkpoint: Path,
    demo_questions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    # Nothing is registered here; `test_foundry_register.py` looks into a real index.
    monkeypatch.setattr(unchanged, "is_in_place", lambda champion, settings: True)
    checkpoint = shutil.copytree(demo_checkpoint, tmp_path / "checkpoint")
    fields = {"checkpoint": checkpoint, "questions": demo_questions, "name": "demo"}
    return Scene(Settings(home=ingot_home), fields)


def test_nothing_stands_before_the_first_release(scene: Scene) -> None:
    assert scene.found() is None


def test_a_release_of_which_nothing_changed_stands(scene: Scene) -> None:
    first = scene.released()
    assert scene.found() == first


def test_a_refusal_stands_too(scene: Scene) -> None:
    first = scene.released(registers=False)
    assert scene.found() == first
    scene.settings.ledger.mkdir()
    registration = Registration(
        model_id="demo-int4-cpu:1", variant=INT4, path=scene.settings.home, created=True,
        question="", answer="", right=True,
    )  # fmt: skip
    champion = variant(INT4, Precision.INT4, 1)
    record_champion(scene.settings, "demo", registration, champion, run_id="a later run")
    assert scene.found() is None


def test_what_another_try_may_mend_does_not_stand(scene: Scene) -> None:
    scene.released(failures={"int8": "does not load."})
    assert scene.found() is None


def test_note_that_cannot_be_written_stops_no_release(scene: Scene) -> None:
    scene.settings.home.mkdir(parents=True, exist_ok=True)
    scene.settings.made.write_text("a file where the folder should be")
    scene.released()
    assert scene.found() is None


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
def test_another_request_is_released(scene: Scene, changes: dict[str, object]) -> None:
    scene.released()
    assert scene.found(**changes) is None


def test_other_files_of_the_user_are_released(
    scene: Scene, demo_questions: Path, tmp_path: Path
) -> None:
    scene.released()
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("\n".join(demo_questions.read_text().splitlines()[:10]) + "\n")
    assert scene.found(questions=fewer) is None
    policy = tmp_path / "policy.toml"
    policy.write_text("[gates.kld_mean]\nlimit = 0.05\n")
    assert scene.found(policy=policy) is None


def rewrite_weights(checkpoint: Path) -> None:
    (file,) = checkpoint.glob("*.safetensors")
    file.write_bytes(file.read_bytes())


def add_template(checkpoint: Path) -> None:
    (checkpoint / "generation_config.json").write_text("{}")


@pytest.mark.parametrize("change", [rewrite_weights, add_template])
def test_checkpoint_that_was_touched_is_released(
    scene: Scene, change: Callable[[Path], None]
) -> None:
    scene.released()
    change(scene.checkpoint)
    assert scene.found() is None


def test_bytes_count_and_not_the_times_of_files(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.released()
    before = unchanged.file_states(scene.checkpoint)
    (file,) = scene.checkpoint.glob("*.safetensors")
    weights = bytearray(file.read_bytes())
    weights[-1] ^= 1
    file.write_bytes(weights)
    monkeypatch.setattr(unchanged, "file_states", lambda folder: before)
    assert scene.found() is None


def test_another_ingot_package_or_machine_releases(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.released()
    other = [PackageVersion(name="onnxruntime", installed="9.9", pinned="==9.9", matches=True)]
    fakes: dict[str, Callable[..., object]] = {
        "_sources_digest": lambda: "other sources",
        "compare_packages": lambda pins: other,
        "machine_class": lambda cpu, packages: "another machine",
    }
    for name, fake in fakes.items():
        with monkeypatch.context() as patch:
            patch.setattr(unchanged, name, fake)
            assert scene.found() is None, name
    assert scene.found() is not None


def test_another_champion_releases(scene: Scene) -> None:
    scene.released()
    champion = champion_of(scene.settings, "demo")
    assert champion is not None
    other = champion.model_copy(update={"model_id": "demo-int4-cpu:2"})
    append_champion(scene.settings, "demo", other)
    assert scene.found() is None


def test_champion_that_is_gone_from_foundry_local_releases(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.released()
    monkeypatch.setattr(unchanged, "is_in_place", lambda champion, settings: False)
    assert scene.found() is None


@pytest.mark.parametrize("what", ["note", "metrics", "report"])
def test_damaged_evidence_releases(scene: Scene, what: str) -> None:
    first = scene.released()
    if what == "report":
        first.report.unlink()
    else:
        file = scene.note if what == "note" else first.report.with_name("metrics.json")
        file.write_text(file.read_text()[:100])
    assert scene.found() is None
