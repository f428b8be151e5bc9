"""After a second look every variant keeps the yardstick that its own answers were held against."""

from __future__ import annotations

from flows.examination import Examination
from tasks.core.records import Evidence, Measurement
from tests.golden.sample_release import INT4, INT8, sample_release


def asked(subject: str, metric: str, n: int) -> Evidence:
    return Evidence(subject=subject, suite="variant", metrics={metric: Measurement(value=1.0, n=n)})


def test_variant_that_was_decided_keeps_the_reference_of_the_first_look() -> None:
    found = Examination(
        reference=asked("f" * 64, "reference.right", 500),
        evidence=[asked(INT4, "answers.right", 1000), asked(INT8, "answers.right", 500)],
        variants=sample_release().variants,
        failures={},
        yardsticks={INT4: asked("f" * 64, "reference.right", 1000)},
    )
    for digest in (INT4, INT8):
        metrics = found.metrics[digest]
        assert metrics["reference.right"].n == metrics["answers.right"].n
    assert found.all_evidence[0].metrics["reference.right"].n == 1000
