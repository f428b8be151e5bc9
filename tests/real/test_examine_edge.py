"""The edge suite on real folders: a sound variant passes it, planted faults fail their cases."""

from __future__ import annotations

import ctypes
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tasks.core.errors import VariantUnusable
from tasks.core.records import Checkpoint, Evidence, Precision, Variant
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.examine.edge.case import Case, Seen, Subject
from tasks.examine.edge.cases import all_cases, run_case
from tasks.examine.edge.edge import EDGE_CHILD, EdgeRequest, examine_edges
from tasks.examine.edge.edge_child import examine_cases
from tasks.examine.edge.engine_cases import engine_cases
from tasks.examine.edge.folder_cases import damaged, folder_cases, weights_of
from tasks.examine.edge.raw import RawEngine
from tasks.examine.edge.text_cases import text_cases
from tasks.examine.protocol import Protocol
from tests.examine_subjects import admitted, build_folders, changed_copy, edit_json, publish
from tests.tiny_models import write_tiny_checkpoint

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(home=tmp_path_factory.mktemp("edge") / "home")


@pytest.fixture(scope="module")
def checkpoint(demo_checkpoint: Path) -> Checkpoint:
    return admitted(demo_checkpoint)


@pytest.fixture(scope="module")
def folder(stock: dict[str, Path]) -> Path:
    return stock["int4"]


@pytest.fixture(scope="module")
def variant(folder: Path, checkpoint: Checkpoint, settings: Settings) -> Variant:
    return publish(folder, Precision.INT4, checkpoint, settings)


def examine(
    checkpoint: Checkpoint, variant: Variant, settings: Settings, target: str = EDGE_CHILD
) -> tuple[Evidence, pd.DataFrame]:
    evidence = examine_edges(
        checkpoint, variant, settings=settings, protocol=Protocol(), target=target
    )
    assert evidence.frames is not None
    return evidence, pd.read_parquet(Store(settings.store).path(evidence.frames) / "edge.parquet")


def test_sound_variant_passes_every_case_and_is_left_as_it_was(
    checkpoint: Checkpoint, variant: Variant, settings: Settings
) -> None:
    store = Store(settings.store)
    modes = {file: file.stat().st_mode for file in store.path(variant.digest).iterdir()}
    evidence, rows = examine(checkpoint, variant, settings)
    assert evidence.notes == []
    assert evidence.metrics["edge.failures"].value == 0
    assert evidence.metrics["edge.cases"].value == len(rows) == len(all_cases())
    assert list(rows) == ["case", "expected", "got", "passed", "seconds"]
    assert store.is_intact(variant.digest, deep=True)
    assert {file: file.stat().st_mode for file in modes} == modes
    assert list((settings.store / "tmp").iterdir()) == []


def test_another_family_passes_the_cases_of_text_and_engine(tmp_path: Path) -> None:
    source = write_tiny_checkpoint(tmp_path / "llama", "llama")
    built = build_folders(source, tmp_path, int4="int4")["int4"]
    assert failures(built, tmp_path) == set()


# ---------------------------------------------------------------- planted faults


def failures(folder: Path, scratch: Path) -> set[str]:
    """Run the cases of text and engine here; the names of those that failed."""
    subject = Subject(RawEngine(folder), folder, scratch)
    outcomes = [run_case(case, subject) for case in [*text_cases(), *engine_cases()]]
    return {outcome.case for outcome in outcomes if not outcome.passed}


def another_tokenizer(folder: Path) -> None:
    other = write_tiny_checkpoint(folder.parent / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, folder / name)


def wrong_end(folder: Path) -> None:
    edit_json(folder / "genai_config.json", lambda config: config["model"].update(eos_token_id=5))


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}")


def template_without_the_text(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.role }}{% endfor %}")


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        (another_tokenizer, {"tokens that end an answer"}),
        (wrong_end, {"tokens that end an answer"}),
        (broken_template, {"ordinary turn", "tokens of texts"}),
        (template_without_the_text, {"ordinary turn"}),
    ],
)
def test_fault_in_the_folder_fails_its_cases(
    folder: Path, tmp_path: Path, fault: Callable[[Path], None], caught_by: set[str]
) -> None:
    assert failures(changed_copy(folder, tmp_path / "faulty", fault), tmp_path) == caught_by


def test_damage_that_the_engine_swallows_fails_its_case(
    variant: Variant, settings: Settings, tmp_path: Path
) -> None:
    stored = Store(settings.store).path(variant.digest)
    subject = Subject(RawEngine(stored), stored, tmp_path)
    harmless = Case("harmless", "refused", damaged(weights_of, 1))
    outcome = run_case(harmless, subject)
    assert not outcome.passed
    assert "'answer'" in outcome.got


def test_folder_that_says_something_else_than_the_engine_fails_its_cases(
    stock: dict[str, Path], tmp_path: Path
) -> None:
    subject = Subject(RawEngine(stock["int4"]), stock["int8"], tmp_path)
    cases = {case.name: case for case in folder_cases()}
    for name in ("folder that is a whole copy", "process killed in mid-generation"):
        assert not run_case(cases[name], subject).passed


def test_folder_that_does_not_load_is_unusable(
    checkpoint: Checkpoint, folder: Path, settings: Settings, tmp_path: Path
) -> None:
    bare = changed_copy(folder, tmp_path / "bare", lambda copy: (copy / "model.onnx").unlink())
    with pytest.raises(VariantUnusable, match="cannot load"):
        examine(checkpoint, publish(bare, Precision.INT4, checkpoint, settings), settings)


# ---------------------------------------------------------------- a case that ends its process


def _crash(subject: Subject) -> Seen:
    ctypes.string_at(0)
    return Seen(True, "survived")


def _hang(subject: Subject) -> Seen:
    ctypes.PyDLL(None).sleep(600)  # holds the GIL, as a hanging engine does
    return Seen(True, "survived")


def _fine(subject: Subject) -> Seen:
    return Seen(True, "fine")


def examine_dangerously(request: EdgeRequest) -> Evidence:
    """Run cases of which two end the process; called in a child process."""
    cases = [
        Case("before", "fine", _fine),
        Case("crash", "no crash", _crash),
        Case("between", "fine", _fine),
        Case("hang", "no hang", _hang),
        Case("after", "fine", _fine),
    ]
    return examine_cases(request.model_copy(update={"patience_s": 3.0}), cases)


def test_crash_and_hang_fail_their_cases_and_the_others_are_run(
    checkpoint: Checkpoint, variant: Variant, settings: Settings
) -> None:
    target = f"tests.real.test_examine_edge:{examine_dangerously.__name__}"
    evidence, rows = examine(checkpoint, variant, settings, target=target)
    assert dict(zip(rows["case"], rows["passed"], strict=True)) == {
        "before": True,
        "crash": False,
        "between": True,
        "hang": False,
        "after": True,
    }
    assert evidence.metrics["edge.failures"].value == 2
    assert "SIGSEGV" in evidence.notes[0]
    assert "the case took too long" in evidence.notes[1]
    assert json.loads(rows.to_json(orient="records"))[1]["expected"] == "no crash"
