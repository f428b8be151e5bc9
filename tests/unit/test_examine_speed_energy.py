"""Energy is read from the kernel's counters: packages once, wraps seen, secrets respected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.examine.speed.energy import EnergyMeter

RANGE = 10_000_000


def zone(root: Path, name: str, microjoules: int, *, label: str = "package-0") -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = zone(tmp_path, "intel-rapl:0", 1_000), zone(tmp_path, "intel-rapl:1", 2_000)
    inner = zone(tmp_path, "intel-rapl:0:0", 500, label="core")
    whole = zone(tmp_path, "intel-rapl:2", 9_000, label="psys")
    zone(tmp_path, "intel-rapl-mmio:0", 1_000)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    for folder in (first, second, inner, whole):
        (folder / "energy_uj").write_text("2002000")
    assert meter.joules(before, meter.read()) == pytest.approx(2.001 + 2.0)


def test_counter_that_starts_anew_is_seen(tmp_path: Path) -> None:
    folder = zone(tmp_path, "amd-rapl:0", RANGE - 3_000_000)
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    (folder / "energy_uj").write_text("2000000")
    assert meter.joules(before, meter.read()) == pytest.approx(5.0)


def test_power_at_rest_is_joules_over_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 0)
    now = [100.0]
    monkeypatch.setattr("tasks.examine.speed.energy.time.monotonic", lambda: now[0])

    def rest(seconds: float) -> None:
        now[0] += seconds
        (folder / "energy_uj").write_text("6000000")

    assert EnergyMeter(tmp_path).idle_w(3.0, rest) == pytest.approx(2.0)


def test_machine_without_a_counter_says_so(tmp_path: Path) -> None:
    for meter in (EnergyMeter(tmp_path), EnergyMeter(tmp_path / "nowhere")):
        assert meter.reason == "no RAPL energy counter on this machine"
        assert meter.read() == []
        assert meter.joules([], []) is None
        assert meter.idle_w(5.0, pytest.fail) is None


def test_counter_that_only_root_may_read_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zone(tmp_path, "intel-rapl:0", 1)
    read = Path.read_text

    def forbidden(self: Path, *args: str, **options: str) -> str:
        if self.name == "energy_uj":
            raise PermissionError(self)
        return read(self, *args, **options)

    monkeypatch.setattr(Path, "read_text", forbidden)
    assert "cannot be read: PermissionError" in EnergyMeter(tmp_path).reason
