"""Timed rows become medians and paired ratios; a busy machine and a lying clock are told."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.core.fairness import is_different, is_fair
from tasks.core.records import Evidence, GateVerdict, Measurement, Precision
from tasks.examine.protocol import Protocol
from tasks.examine.speed.measure import SpeedEvidence
from tasks.examine.speed.metrics import clear_runs, contention, speed_evidence
from tasks.examine.speed.rows import CHAMPION, CONTROL, Timed
from tasks.judge.judge import judge_gate
from tests.judged import POLICY

PROTOCOL = Protocol(bootstrap_samples=300)
DIGESTS = {"int4": "4" * 64, "int8": "8" * 64, CONTROL: "4" * 64, CHAMPION: "c" * 64}
SCENARIOS = {"chat": (128, 33), "rag": (1024, 33)}


@cache
def samples(*, slower_control: float = 1.0, slower: str = "", launches: int = 3) -> pd.DataFrame:
    """Make runs of four lanes; `slower` is a column that takes int8 ten times as long in `rag`."""
    rng = np.random.default_rng(0)
    speeds = {"int4": 1.0, "int8": 1.5, CONTROL: slower_control, CHAMPION: 2.0}
    places = [(lh, rd, sc) for lh in range(launches) for rd in range(-1, 8) for sc in SCENARIOS]
    found = []
    for launch, number, scenario in places:
        weather = rng.lognormal(0, 0.3)  # what all lanes of one round share
        for lane, speed in speeds.items():
            second = weather * speed * rng.lognormal(0, 0.02) * (9 if number < 0 else 1)
            row: dict[str, Any] = {"lane": lane, "digest": DIGESTS[lane], "case_id": scenario}
            row |= {"launch": launch, "round": number, "phase": "warm" if number < 0 else "run"}
            row |= dict(zip(("n_in", "n_out"), SCENARIOS[scenario], strict=True))
            shares = {"prefill_s": 0.1, "ttft_s": 0.2, "decode_s": 0.32, "e2e_s": 0.52}
            shares |= {"cpu_prefill_s": 0.1, "cpu_ttft_s": 0.1, "cpu_decode_s": 0.32}
            if lane == "int8" and scenario == "rag" and slower:
                shares[slower] *= 10
            row |= {name: share * second for name, share in shares.items()}
            row |= {"itl": [0.01 * second] * 32, "energy_j": 30 * second, "energy_s": second}
            found.append(row | {"contended": False, "loadavg1": 0.5})
    return pd.DataFrame(found)


def launch_rows(**changes: object) -> pd.DataFrame:
    found = []
    for launch in range(3):
        for lane, digest in DIGESTS.items():
            row = {"lane": lane, "digest": digest, "launch": launch, "load_peak_rss_bytes": 500}
            found.append(row | {"start": "side by side", "start_s": 0.5 + launch / 10})
            fresh = {"start": "fresh", "page_cache": "", "start_s": 2.0, "peak_was_reset": True}
            fresh |= {"load_peak_rss_bytes": 500 + launch, "n_in": 128, "n_out": 128}
            if launch < 2:
                room = {0: 256, 1: 4096}[launch]
                fresh |= {"max_length": room, "hwm_b": 1000 + room, "file_b": 300}
                fresh |= {"anon_b": 400 + 7 * room}
            found.append(row | fresh | changes)
    return pd.DataFrame(found)


def timed(rows: pd.DataFrame, **changes: Any) -> Timed:
    fields: dict[str, Any] = {
        "lanes": ["int4", "int8"],
        "headline": "chat",
        "scenarios": list(SCENARIOS),
        "samples": rows,
        "launches": launch_rows(),
        "no_energy": "no counter here",
    }
    return Timed(**fields | changes)


def evidence(lane: str, rows: pd.DataFrame, **changes: Any) -> Evidence:
    return speed_evidence(lane, timed(rows, **changes), PROTOCOL)


def value(found: Measurement) -> float:
    assert found.value is not None
    return found.value


def test_ratio_is_paired_so_that_shared_weather_cancels() -> None:
    metrics = evidence("int8", samples()).metrics
    low, high = metrics["speed.decode_time_ratio"].ci95 or (0.0, 0.0)
    assert low < 1.5 < high
    assert high - low < 0.1
    assert metrics["speed.decode_time_ratio"].n == 24


def test_slow_scenario_is_in_the_ratio_over_all_and_in_its_own_figures_only() -> None:
    slow, even = (evidence("int8", samples(slower=by)).metrics for by in ("decode_s", ""))
    assert value(slow["speed.decode_time_ratio"]) == pytest.approx(1.5 * 10**0.5, rel=0.05)
    rag = "speed.rag.decode_tokens_per_s"
    assert value(slow[rag]) == pytest.approx(value(even[rag]) / 10)
    assert slow["speed.decode_tokens_per_s"] == even["speed.decode_tokens_per_s"]
    means = [m["speed.decode_geomean_tokens_per_s"] for m in (slow, even)]
    assert value(means[0]) == pytest.approx(value(means[1]) / 10**0.5)


def test_mean_over_scenarios_takes_all_runs_where_the_clear_ones_leave_no_whole_round() -> None:
    rows = samples().copy()
    # One scenario of each round was disturbed, now this and now that one.
    disturbed = (rows["round"] % 2 == 0) == (rows["case_id"] == "rag")
    metrics = evidence("int4", rows.assign(contended=disturbed)).metrics
    found = metrics["speed.decode_geomean_tokens_per_s"]
    assert found.n == 24
    assert "contended ones among them" in found.method


def test_warm_ups_are_not_counted() -> None:
    metrics = evidence("int4", samples()).metrics
    assert metrics["speed.decode_tokens_per_s"].n == 24
    assert metrics["speed.decode_tokens_per_s"].value == pytest.approx(100, rel=0.4)
    assert metrics["speed.cpu_s_per_token"].value == pytest.approx(0.01, rel=0.4)


def test_cpu_seconds_and_seconds_are_of_the_same_tokens() -> None:
    rows = samples()
    metrics = evidence("int4", rows.assign(cpu_decode_s=2 * rows["decode_s"])).metrics
    rate, cost = metrics["speed.decode_tokens_per_s"].value, metrics["speed.cpu_s_per_token"].value
    assert rate is not None
    assert cost is not None
    assert rate * cost == pytest.approx(2.0, rel=0.005)  # two cores were busy


def test_one_launch_gives_no_interval_and_so_no_value() -> None:
    metrics = evidence("int8", samples(launches=1)).metrics
    for name in ("speed.ttft_s", "speed.aa_ratio", "speed.cpu_ratio", "speed.itl_p99_s"):
        assert metrics[name].value is None
        assert metrics[name].method.startswith("one launch gives no interval")
        assert not metrics[name].is_settled()
    assert metrics["speed.aa_different"].value is None


def test_control_invalidates_the_section_when_the_clock_lies() -> None:
    fair = evidence("int8", samples())
    lying = evidence("int8", samples(slower_control=1.3))
    assert (fair.metrics["speed.aa_different"].value, fair.metrics["speed.aa_different"].n) == (
        0,
        4,
    )
    assert lying.metrics["speed.aa_different"].value == 4
    assert not any("INVALID" in note for note in fair.notes)
    assert lying.notes[0].startswith("INVALID")
    assert SpeedEvidence(evidence=[fair]).is_settled()
    assert not SpeedEvidence(evidence=[lying]).is_settled()


def test_control_sees_a_clock_that_lies_about_one_thing_only() -> None:
    rows = samples()
    slow = rows["ttft_s"].where(rows["lane"] != CONTROL, 1.3 * rows["ttft_s"])
    metrics = evidence("int4", rows.assign(ttft_s=slow)).metrics
    assert metrics["speed.aa_different"].value == 1
    assert not is_fair(metrics)


@pytest.mark.parametrize(
    ("interval", "different"),
    [((0.9, 0.96), False), ((1.04, 1.3), False), ((1.051, 1.3), True), ((0.7, 0.949), True)],
)
def test_five_percent_is_the_same(interval: tuple[float, float], different: bool) -> None:
    assert is_different(Measurement(value=1.0, ci95=interval)) is different


def test_champion_is_what_the_others_times_are_over() -> None:
    metrics = evidence("int8", samples(), champion=CHAMPION).metrics
    assert value(metrics["speed.decode_to_champion"]) == pytest.approx(0.75, rel=0.05)
    assert value(metrics["speed.ttft_to_champion"]) == pytest.approx(0.75, rel=0.05)


def test_unfair_clock_widens_the_ratio_to_the_champion_and_silences_nothing() -> None:
    fair, unfair = (
        evidence("int8", samples(slower_control=by), champion=CHAMPION).metrics for by in (1.0, 1.3)
    )
    for name in ("speed.decode_to_champion", "speed.ttft_to_champion"):
        narrow, wide = fair[name].ci95 or (0, 0), unfair[name].ci95 or (0, 0)
        assert value(unfair[name]) == pytest.approx(value(fair[name]), rel=0.05)
        assert wide[0] < narrow[0] / 1.25
        assert wide[1] > narrow[1] * 1.25
        assert "widened by a factor of 1.3" in unfair[name].method
        assert "widened" not in fair[name].method


@pytest.mark.parametrize(
    ("times_slower", "slower_control", "verdict"),
    [
        (50, 1.3, GateVerdict.FAIL),
        (1.2, 1.0, GateVerdict.FAIL),
        (1.2, 1.3, GateVerdict.INCONCLUSIVE),
    ],
    ids=["fifty times", "a fifth, fair clock", "a fifth, unfair clock"],
)
def test_unfair_clock_hides_a_small_loss_and_never_a_large_one(
    times_slower: float, slower_control: float, verdict: GateVerdict
) -> None:
    rows = samples(slower_control=slower_control)
    as_champion = rows["lane"].map({"int8": 2.0 / 1.5}).fillna(1.0)  # which takes 2.0, int8 1.5
    slowed = rows["lane"].map({"int8": times_slower}).fillna(1.0) * as_champion
    rows = rows.assign(decode_s=rows["decode_s"] * slowed)
    metrics = evidence("int8", rows, champion=CHAMPION).metrics
    (gate,) = (one for one in POLICY.gates if one.name == "decode_to_champion")
    limit = gate.champion_limit[Precision.INT8]
    assert judge_gate(gate, metrics[gate.metric], limit).verdict is verdict


def test_clock_of_which_nothing_is_known_is_not_fair() -> None:
    measured = Measurement(value=1.0, ci95=(0.98, 1.02))
    unknown = Measurement(value=1.0)
    different = Measurement(value=1.2, ci95=(1.1, 1.3))
    assert is_fair({"speed.aa_ratio": measured}) is True
    assert is_fair({}) is None
    assert is_fair({"speed.aa_ratio": measured, "speed.aa_cpu_ratio": unknown}) is None
    assert is_fair({"speed.aa_ratio": different, "speed.aa_cpu_ratio": unknown}) is False


def test_evidence_of_a_clock_of_which_nothing_is_known_is_not_kept() -> None:
    found = evidence("int8", samples())
    blind = {n: m for n, m in found.metrics.items() if not n.startswith("speed.aa_")}
    assert SpeedEvidence(evidence=[found]).is_settled()
    nobody_knows = found.model_copy(update={"metrics": blind})
    assert not SpeedEvidence(evidence=[nobody_knows]).is_settled()


@pytest.mark.parametrize(("champion", "reason"), [(None, "no champion"), ("int4", "this is the")])
def test_without_another_champion_there_is_nothing_to_compare(
    champion: str | None, reason: str
) -> None:
    found = evidence("int4", samples(), champion=champion).metrics["speed.decode_to_champion"]
    assert not found.applies
    assert found.method.startswith(reason)


def test_contended_runs_are_left_out_of_absolute_figures_but_not_of_ratios() -> None:
    rows = samples()
    busy = rows["round"].isin([2, 5])
    slow = rows.assign(contended=busy, decode_s=rows["decode_s"].where(~busy, 100.0))
    metrics = evidence("int4", slow).metrics
    assert metrics["speed.decode_tokens_per_s"].n == 18
    assert "18 of 24 runs, the uncontended ones" in metrics["speed.decode_tokens_per_s"].method
    assert metrics["speed.aa_ratio"].n == 24
    assert value(metrics["speed.contended"]) == 0.25


def test_where_most_runs_are_contended_all_are_taken_and_it_is_said() -> None:
    rows = samples().assign(contended=True)
    kept, which = clear_runs(rows)
    assert len(kept) == len(rows)
    assert "contended ones among them" in which
    assert contention(samples()) == []
    assert "in 100% of the runs, load average 0.5" in contention(rows)[0]


def test_percentiles_of_too_few_gaps_are_not_measured() -> None:
    rows = samples()
    metrics = evidence("int4", rows).metrics
    assert metrics["speed.itl_p99_s"].n == 24 * 32
    assert value(metrics["speed.itl_p50_s"]) < value(metrics["speed.itl_p99_s"])
    few = evidence("int4", rows.assign(itl=[[0.01] * 8] * len(rows))).metrics["speed.itl_p50_s"]
    assert (few.value, few.n) == (None, 192)


def test_percentiles_see_a_pause_that_the_median_hides() -> None:
    rows = samples()
    paused = [[*gaps[:30], 5.0, 5.0] for gaps in rows["itl"]]
    metrics = evidence("int4", rows.assign(itl=paused)).metrics
    assert value(metrics["speed.itl_p50_s"]) < 0.1
    assert value(metrics["speed.itl_p95_s"]) == 5.0


def test_loading_is_cold_or_warm_and_cold_only_where_the_files_were_gone() -> None:
    metrics = evidence("int4", samples()).metrics
    assert (value(metrics["speed.load_warm_s"]), metrics["speed.load_warm_s"].n) == (0.6, 3)
    assert value(metrics["speed.load_cold_s"]) == 2.0
    stayed = launch_rows(page_cache="all of the files stayed")
    found = evidence("int4", samples(), launches=stayed).metrics["speed.load_cold_s"]
    assert (found.applies, found.method) == (False, "all of the files stayed")


def test_memory_is_that_of_processes_of_its_own() -> None:
    metrics = evidence("int4", samples()).metrics
    assert metrics["memory.load_peak_rss_bytes"].value == 502
    assert metrics["memory.peak_rss_bytes"].value == 1256
    assert metrics["memory.peak_rss_full_context_bytes"].value == 5096
    assert metrics["memory.kv_bytes_per_token"].value == 7
    assert metrics["memory.anon_bytes"].value == 400 + 7 * 256
    assert metrics["memory.file_bytes"].value == 300
    # The report shows what comes before the first semicolon.
    workload = metrics["memory.peak_rss_bytes"].method.partition(";")[0]
    assert workload == "128 prompt and 128 new tokens, KV cache for 256 tokens"


def test_parts_of_memory_do_not_apply_where_the_system_does_not_tell_them() -> None:
    rows = launch_rows(anon_b=None, file_b=None)
    metrics = evidence("int4", samples(), launches=rows).metrics
    for name in ("anon_bytes", "file_bytes", "kv_bytes_per_token"):
        assert not metrics[f"memory.{name}"].applies
    assert metrics["memory.peak_rss_bytes"].value == 1256


def test_energy_is_above_rest_and_of_uncontended_runs() -> None:
    rows = samples()
    found = evidence("int4", rows, no_energy="", idle_w=10.0).metrics["energy.joules_per_token"]
    # 30 J and 1 s between the readings, whatever the weather, of which the run was 0.52 s.
    wanted = (rows["energy_j"] - 10 * rows["energy_s"])[
        (rows["lane"] == "int4") & (rows["case_id"] == "chat") & (rows["phase"] == "run")
    ] / 33
    assert value(found) == pytest.approx(float(wanted.median()))
    busy = evidence("int4", rows.assign(contended=True), no_energy="", idle_w=10.0)
    assert busy.metrics["energy.joules_per_token"].value is None
    none = evidence("int4", rows).metrics["energy.joules_per_token"]
    assert (none.applies, none.method) == (False, "no counter here")


def test_scenario_that_has_no_room_does_not_apply() -> None:
    found = evidence("int4", samples(), unfit=["long"]).metrics["speed.long.ttft_s"]
    assert not found.applies
    assert "long does not fit into the context" in found.method
