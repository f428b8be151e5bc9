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
from flows.preflight import Order, check_request
from flows.unchanged import forget_release, inputs_digest, note_release, unchanged_release
from tasks.checkpoint.admit import admit_checkpoint
from tasks.core.records import Evidence, Precision, Registration, Release
from tasks.core.settings import Settings
from tasks.examine.speed.tune import Tuned
from tasks.foundry.ledger import append_champion, champion_of, record_champion
from tasks.report.load import load_run
from tests.golden.sample_release import INT4, between, exact, variant
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

    def released(self, **changes: object) -> Release:
        """Leave behind what a release leaves: a run, a champion, and the note."""
        registration = Registration(
            model_id="demo-int4-cpu:1", variant=INT4, path=self.settings.home, created=True,
            question="", answer="", right=True,
        )  # fmt: skip
        champion = variant(INT4, Precision.INT4, 1)
        record_champion(self.settings, "demo", registration, champion, run_id=RUN)
        folder = self.settings.runs / RUN
        told = {
            "name": "demo",
            "checkpoint": admit_checkpoint(self.checkpoint, name="demo"),
            "report": folder / "report.html",
            "failures": {},
            "registration": registration,
            **changes,
        }
        write_run(self.settings, RUN, {}, **told)
        (folder / "report.html").write_text("a report")
        release = load_run(folder).release
        self.noted(release)
        return release

    def noted(self, release: Release, /, **changes: object) -> None:
        order = changes.get("order") or check_request(self.request())
        assert isinstance(order, Order)
        told = {
            "inputs": inputs_digest(order),
            "order": order,
            "release": release,
            "tuned": TUNED,
            "evidence": [FAIR],
            "settings": self.settings,
            **changes,
        }
        note_release(**told)  # type: ignore[arg-type]  # checked by what they stand for

    def request(self, **changes: object) -> ReleaseRequest:
        return ReleaseRequest.model_validate({**self.fields, **changes})

    def found(self, **changes: object) -> Release | None:
        request = self.request(**changes)
        return unchanged_release(request, check_request(request), self.settings)


CONTROL = "speed.aa_int4_decode_ratio"
NOT_MEASURED = exact(0.0).model_copy(update={"value": None})
FAIR = Evidence(suite="speed", subject=INT4, metrics={CONTROL: between(1.0, 0.98, 1.02)}, notes=[])
TUNED = Tuned(variants=[variant(INT4, Precision.INT4, 1)], evidence=[], contended=[])


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
    found = scene.found()
    assert found is not None
    assert found.run_id == first.run_id
    assert found.judgement == first.judgement
    assert found.registration is not None
    assert found.registration.created is False  # as a run of the flow would say


def test_what_another_try_may_mend_does_not_stand(scene: Scene) -> None:
    release = scene.released()
    unsettled = FAIR.model_copy(update={"metrics": {**FAIR.metrics, "some.metric": NOT_MEASURED}})
    unfair = FAIR.model_copy(update={"metrics": {CONTROL: between(1.5, 1.4, 1.6)}})
    changes: list[dict[str, object]] = [
        {"release": release.model_copy(update={"registration": None})},
        {"release": release.model_copy(update={"failures": {"int8": "does not load."}})},
        {"tuned": TUNED.model_copy(update={"contended": ["int4"]})},
        {"evidence": [FAIR, unsettled]},
        {"evidence": [unfair]},
        {"inputs": None},
        {"inputs": "0" * 64},
    ]
    for change in changes:
        scene.note.unlink(missing_ok=True)
        scene.noted(release, **change)
        assert scene.found() is None, change
    scene.noted(release)
    assert scene.found() is not None


def test_a_run_forgets_what_was_noted_before_it(scene: Scene) -> None:
    scene.released()
    order = check_request(scene.request())
    assert forget_release(order, scene.settings) == inputs_digest(order)
    assert scene.found() is None


def test_note_that_cannot_be_written_stops_no_release(scene: Scene) -> None:
    scene.settings.home.mkdir(parents=True, exist_ok=True)
    scene.settings.made.write_text("a file where the folder should be")
    release = scene.released()
    assert scene.found() is None
    scene.settings.made.unlink()
    order = check_request(scene.request())
    shutil.rmtree(scene.checkpoint)
    scene.noted(release, order=order, inputs=inputs_digest(order))
    assert not scene.note.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"precisions": [Precision.INT4]},
        {"profile": "small"},
        {"builder": "plain"},
        {"examination": "smoke"},
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
    fakes: dict[str, Callable[..., object]] = {
        "_sources_digest": lambda: "other sources",
        "machine_class": lambda cpu, packages: "another machine",
        "_installed": lambda: ["onnxruntime_genai_core-9.9.dist-info"],
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


def test_the_note_of_another_name_is_none(scene: Scene) -> None:
    scene.released()
    champion = champion_of(scene.settings, "demo")
    assert champion is not None
    append_champion(scene.settings, "other", champion)
    scene.note.with_name("other.json").write_bytes(scene.note.read_bytes())
    assert scene.found(name="other") is None


def test_whatever_cannot_be_read_releases(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.released()

    def fail(*_: object) -> str:
        raise FileNotFoundError("a file of the sources that is being replaced")

    with monkeypatch.context() as patch:
        patch.setattr(unchanged, "_sources_digest", fail)
        assert scene.found() is None
    (scene.settings.ledger / "demo.json").write_text("{")
    assert scene.found() is None
