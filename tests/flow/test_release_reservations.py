"""What each step of a release has reserved on its machine at the moment at which it works.

The steps are the fakes of the workshop, each called where the real one would be: a step that stops
reserving is seen here, and nowhere else before a machine runs out of memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.parameters import ReleaseRequest
from flows.release import release
from tasks.checkpoint import admit
from tasks.core.budget import BASE_BYTES
from tasks.core.records import SHIPPABLE, Checkpoint, Release
from tasks.core.tickets import Ticket
from tasks.environment.forecast import forecast_build
from tasks.variants.recipes import REFERENCE
from tests.release_workshop import Workshop, opened_workshop

pytestmark = pytest.mark.flow

PRECISIONS = [precision.value for precision in SHIPPABLE]
EXAMINED = ["reference", *PRECISIONS]
IN_MEMORY = [
    *((f"examine {one}", f"examine {one} of demo") for one in EXAMINED),
    *((f"edge cases {one}", f"edge cases {one} of demo") for one in PRECISIONS),
    *((f"soak {one}", f"soak {one} of demo") for one in PRECISIONS),
    *((f"stage {one}", f"stage {one} of demo") for one in PRECISIONS),
    ("register champion", "register demo"),
]


@dataclass
class Done:
    """One release, with what ran on the machine at each of its steps."""

    workshop: Workshop
    checkpoint: Checkpoint
    outcome: Release

    def ticket(self, step: str, label: str) -> Ticket:
        return next(one for one in self.workshop.running[step] if one.step == label)


@pytest.fixture(scope="module")
def done(
    prefect_server: None,
    tmp_path_factory: pytest.TempPathFactory,
    demo_checkpoint: Path,
    demo_questions: Path,
) -> Iterator[Done]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INGOT_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("INGOT_MACHINE", str(tmp_path_factory.mktemp("machine")))
        workshop = opened_workshop(patch)
        admitted, really = [], admit.admit_checkpoint

        def watched(*arguments: Any, **options: Any) -> Checkpoint:
            workshop.look("admit checkpoint")
            admitted.append(really(*arguments, **options))
            return admitted[-1]

        patch.setattr(admit, "admit_checkpoint", watched)
        asked = {"checkpoint": demo_checkpoint, "questions": demo_questions, "name": "demo"}
        outcome = release(ReleaseRequest.model_validate(asked))
        assert isinstance(outcome, Release)
        yield Done(workshop, admitted[0], outcome)


def test_every_build_has_its_forecast(done: Done) -> None:
    recipes = [REFERENCE, *(variant.recipe for variant in done.outcome.variants)]
    assert len(recipes) == len(SHIPPABLE) + 1
    for recipe in recipes:
        held = done.ticket(f"build {recipe.precision}", f"build {recipe.precision} of demo")
        assert held.wanted_bytes == forecast_build(done.checkpoint, recipe).peak_rss_bytes


@pytest.mark.parametrize(("step", "label"), IN_MEMORY)
def test_every_examination_has_at_least_what_its_process_needs(
    done: Done, step: str, label: str
) -> None:
    assert done.ticket(step, label).wanted_bytes >= BASE_BYTES


@pytest.mark.parametrize("step", ["tune variants", "measure speed"])
def test_what_is_timed_has_the_machine_to_itself(done: Done, step: str) -> None:
    (alone,) = done.workshop.running[step]
    assert (alone.step, alone.exclusive) == (step, True)


def test_what_reads_the_disk_keeps_timings_away_and_takes_no_memory(done: Done) -> None:
    labels = {"admit checkpoint": "admit demo", "write report": f"report {done.outcome.run_id}"}
    for step, label in labels.items():
        assert done.ticket(step, label).wanted_bytes == 0
