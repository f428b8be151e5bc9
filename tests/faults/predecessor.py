"""A champion that is there already: other bytes under the same alias, registered for real."""

from __future__ import annotations

import json
import shutil

from tasks.core.questions import load_questions
from tasks.core.records import Variant
from tasks.core.settings import Settings
from tasks.core.store import MANIFEST, Store
from tasks.foundry import ledger
from tasks.foundry.register import register_champion
from tests.faults.bench import Bench


def put_champion_in_place(bench: Bench) -> None:
    """Register the INT4 variant with one more file, so that it is another one, as `demo`."""
    settings = Settings(home=bench.home)
    variant = _variant(bench, "int4")
    store = Store(settings.store)
    with store.staging() as staged:
        folder = staged / "model"
        shutil.copytree(store.path(variant.digest), folder)
        (folder / MANIFEST).unlink()
        (folder / "README.md").write_text("the champion before\n")
        digest = store.publish(folder)
    before = variant.model_copy(update={"digest": digest})
    question = load_questions(bench.questions)[0]
    registration = register_champion("demo", before, question, settings=settings)
    ledger.record_champion(settings, "demo", registration, before, run_id="a-run-of-long-ago")


def _variant(bench: Bench, precision: str) -> Variant:
    for record in (bench.home / "records").glob("build-variant-*"):
        variant = Variant.model_validate(
            json.loads(json.loads(record.read_text())["result"])["data"]
        )
        if variant.precision == precision:
            return variant
    raise AssertionError(f"no record of {precision}")
