"""How growth over loads and unloads is fitted: noise is none, a kept MiB or a kept mapping is."""

from __future__ import annotations

import random

import pytest

from tasks.core.records import Measurement
from tasks.foundry.reload_child import Cycle, growth

KIB, MIB = 1024, 1024**2
LIMIT = 256 * KIB  # the gate's
BASE = 80 * MIB


def cycles(count: int, *, anon: int = 0, mapped: int = 0, noise: int = 20 * KIB) -> list[Cycle]:
    """Give cycles after which so many more bytes a cycle are held."""
    wobble = random.Random(7)
    held = [BASE + number * anon + wobble.randint(-noise, noise) for number in range(count)]
    return [
        Cycle(number, True, 0.1, MIB + each + number * mapped, each, 2 * BASE)
        for number, each in enumerate(held)
    ]


def verdict(found: Measurement) -> str:
    assert found.ci95 is not None
    low, high = found.ci95
    return "PASS" if high <= LIMIT else "FAIL" if low > LIMIT else "INCONCLUSIVE"


@pytest.mark.parametrize("count", [6, 12, 40])
def test_noise_of_a_healthy_runtime_passes(count: int) -> None:
    assert verdict(growth(cycles(count))) == "PASS"


@pytest.mark.parametrize("count", [6, 12, 40])
def test_mib_that_is_kept_each_time_fails(count: int) -> None:
    found = growth(cycles(count, anon=MIB))
    assert verdict(found) == "FAIL"
    assert found.value == pytest.approx(MIB, rel=0.05)


def test_mapping_that_is_kept_shows_in_resident_memory_only_and_fails() -> None:
    found = growth(cycles(6, mapped=MIB))
    assert verdict(found) == "FAIL"
    assert found.method.startswith("resident memory")


def test_one_disturbed_reading_does_not_move_the_slope() -> None:
    held = cycles(12)
    held[-1] = held[-1]._replace(anon_b=held[-1].anon_b + 6 * MIB)
    assert verdict(growth(held)) == "PASS"


def test_too_few_cycles_are_not_measured() -> None:
    assert growth(cycles(3)).value is None
