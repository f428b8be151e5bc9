"""The soak of a champion: what it is told by, and how its end is named.

The examinations are hand-written fakes; the real ones are held in tests/real.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from flows import soak_command, soak_order
from flows.soak import soak
from flows.soak_command import exit_code
from flows.soak_order import SoakRequest
from tasks.core.errors import (
    ChildKilled,
    InputError,
    PolicyRefused,
    ToolMissing,
)
from tasks.core.records import (
    Checkpoint,
    Evidence,
    ExaminationProfile,
    GateVerdict,
    Measurement,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import Store
from tasks.environment import check
from tasks.examine.protocol import Protocol, SoakPlan
from tasks.examine.soak import soak as soaks
from tasks.examine.soak.task import _of_soak
from tasks.foundry import reload as reloads
from tasks.foundry.ledger import record_champion
from tasks.report.metrics_json import metrics_json
from tasks.report.soak_run import SoakRun
from tests.golden.sample_release import sample_dossier, sample_environment
from tests.judged import POLICY

pytestmark = [pytest.mark.flow, pytest.mark.usefixtures("prefect_server", "ingot_home")]

LIMIT = 64 * 2**20 / 10_000
FLAT, STEEP, OPEN = (0.0, 100.0), (16_000.0, 17_000.0), (100.0, 9_000.0)


def measurement(interval: tuple[float, float]) -> Measurement:
    return Measurement(value=sum(interval) / 2, ci95=interval, n=600, unit="B", method="fake")


@dataclass
class Bench:
    """Fakes of the two examinations, with what they find and a fault to plant."""

    heap: tuple[float, float] = FLAT
    unmeasured: str = ""
    faults: dict[str, Exception] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    protocol: Protocol | None = None

    def soak(
        self, checkpoint: Checkpoint, variant: Variant, *, protocol: Protocol, **_: Any
    ) -> Evidence:
        self._enter("soak")
        self.protocol = protocol
        store = Store(Settings().store)
        with store.staging() as folder:
            rows = {"i": range(5), "anon_b": 1, "heap_b": 1.0}
            pd.DataFrame(rows).to_parquet(folder / "memory.parquet")
            frames = store.publish(folder)
        metrics = {name: Measurement(value=0.0, n=600) for name in soak_gates("soak.")}
        metrics["soak.heap_growth_bytes"] = measurement(self.heap)
        metrics["soak.decode_rate_ratio"] = Measurement(value=None, n=0, applies=False, method="-")
        if self.unmeasured:
            metrics[self.unmeasured] = Measurement(value=None, n=0, method="planted")
        return Evidence(suite="soak", subject=variant.digest, metrics=metrics, frames=frames)

    def reload(
        self, settings: Settings, model_id: str, variant: str, *_: Any, **__: Any
    ) -> Evidence:
        self._enter("reload")
        metrics = {reloads.GROWTH: Measurement(value=0.0, ci95=(0.0, 1.0), n=6)}
        return Evidence(suite="foundry", subject=variant, metrics=metrics)

    def _enter(self, examination: str) -> None:
        self.calls[examination] += 1
        if examination in self.faults:
            raise self.faults[examination]


def soak_gates(prefix: str) -> set[str]:
    return {gate.metric for gate in POLICY.gates if gate.metric.startswith(prefix)}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench()
    monkeypatch.setattr(check, "check_environment", lambda *_, **__: sample_environment())
    monkeypatch.setattr(soaks, "soak_variant", found.soak)
    monkeypatch.setattr(reloads, "reload_champion", found.reload)
    monkeypatch.setattr(soak_order, "load_policy", lambda _: POLICY)
    return found


@pytest.fixture
def run(ingot_home: Path) -> Callable[..., tuple[str, Any]]:
    """Register the sample release's champion, and soak it: the state's name and its result."""
    dossier = sample_dossier()
    release = dossier.release
    assert release.registration is not None
    champion = next(v for v in release.variants if v.digest == release.registration.variant)
    record_champion(Settings(), "demo", release.registration, champion, run_id=release.run_id)
    folder = Settings().runs / release.run_id
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(metrics_json(dossier))

    def go(**fields: Any) -> tuple[str, Any]:
        request = SoakRequest.model_validate({"name": "demo", **fields})
        state = soak(request, return_state=True)
        return state.name, state.result(raise_on_failure=False)

    return go


def test_champion_that_lasts_leaves_its_evidence(bench: Bench, run: Any) -> None:
    name, outcome = run()
    assert name == "Completed"
    assert isinstance(outcome, SoakRun)
    assert outcome.verdict.verdict is GateVerdict.PASS
    assert outcome.model_id == "demo-int8-cpu:2"
    assert exit_code(outcome) == 0

    document = json.loads((outcome.folder / "soak.json").read_text())
    assert document["schema"] == "ingot.soak/1"
    assert document["variant"] == outcome.variant
    rows = pd.read_parquet(outcome.folder / "memory.parquet")
    assert set(rows["run_id"]) == {outcome.run_id}
    assert list(rows["i"]) == list(range(5))
    assert not list(Settings().runs.glob("*.partial"))


def test_leak_ends_the_flow_as_failed_and_names_the_gate(bench: Bench, run: Any) -> None:
    bench.heap = STEEP
    name, outcome = run()
    assert name == "Leak"
    assert "does not last: heap_growth" in outcome.reason
    assert (outcome.folder / "soak.json").is_file()
    assert exit_code(outcome) == 3


def test_growth_that_stays_open_is_named_inconclusive(bench: Bench, run: Any) -> None:
    bench.heap = OPEN
    name, outcome = run()
    assert name == "Inconclusive"
    assert "open: heap_growth" in outcome.reason
    assert exit_code(outcome) == 3


def test_what_was_not_measured_is_neither_a_leak_nor_a_pass(bench: Bench, run: Any) -> None:
    bench.unmeasured = "soak.anon_growth_bytes"
    name, outcome = run()
    assert name == "Inconclusive"
    assert exit_code(outcome) == 3


def test_only_gates_on_what_a_soak_measures_are_asked(bench: Bench, run: Any) -> None:
    _, outcome = run()
    asked = {gate.metric for gate in outcome.verdict.gates}
    assert "soak.heap_growth_bytes" in asked
    assert reloads.GROWTH in asked
    assert {metric.partition(".")[0] for metric in asked} == {"soak", "foundry"}
    assert "decode_rate" in outcome.verdict.not_asked


def test_killed_soak_is_not_tried_again_and_the_rest_is_still_examined(
    bench: Bench, run: Any
) -> None:
    bench.faults["soak"] = ChildKilled("killed")
    name, outcome = run()
    assert name == "Unfinished"
    assert bench.calls == Counter(soak=1, reload=1)
    assert "killed" in outcome.failures["soak"]
    assert exit_code(outcome) == 4


def test_missing_foundry_local_does_not_throw_the_soak_away(bench: Bench, run: Any) -> None:
    bench.faults["reload"] = ToolMissing("no Foundry Local")
    name, outcome = run()
    assert name == "Unfinished"
    assert outcome.failures == {"reload": "no Foundry Local."}
    assert (outcome.folder / "memory.parquet").is_file()


def test_leak_is_named_even_where_the_rest_could_not_be_finished(bench: Bench, run: Any) -> None:
    bench.heap, bench.faults["reload"] = STEEP, ToolMissing("no Foundry Local")
    name, outcome = run()
    assert name == "Leak"
    assert exit_code(outcome) == 3


def test_every_soak_is_made_anew(bench: Bench, run: Any) -> None:
    run()
    run()
    assert bench.calls == Counter(soak=2, reload=2)


def test_profile_decides_how_long(bench: Bench, run: Any) -> None:
    run()
    assert bench.protocol == Protocol.of(ExaminationProfile.FULL)
    run(examination="smoke")
    assert bench.protocol == Protocol.of(ExaminationProfile.SMOKE)


def test_releases_soak_is_cached_by_what_it_reads() -> None:
    def parts(protocol: Protocol, digest: str = "4" * 64) -> list[Any]:
        variant = sample_dossier().release.variants[0].model_copy(update={"digest": digest})
        environment = sample_environment()
        return _of_soak({"variant": variant, "environment": environment, "protocol": protocol})

    usual = Protocol()
    assert parts(usual) == parts(usual.model_copy(update={"max_questions": 7}))
    assert parts(usual) != parts(usual.model_copy(update={"soak": SoakPlan(generations=700)}))
    assert parts(usual) != parts(usual, digest="5" * 64)


def test_name_without_a_champion_is_bad_input_and_spends_nothing(bench: Bench, run: Any) -> None:
    name, problem = run(name="nobody")
    assert name == "Failed"
    assert isinstance(problem, InputError)
    assert "nobody" in problem.message
    assert not bench.calls


def test_champion_whose_run_is_gone_says_which_folder_is_missing(bench: Bench, run: Any) -> None:
    (file,) = Settings().runs.glob("*/metrics.json")
    file.unlink()
    _, problem = run()
    assert isinstance(problem, InputError)
    assert "demo-int8-cpu:2" in problem.message
    assert str(file.parent) in problem.expected
    assert not bench.calls


def test_run_that_knows_another_variant_only_is_refused(bench: Bench, run: Any) -> None:
    (file,) = Settings().runs.glob("*/metrics.json")
    file.write_text(file.read_text().replace("8" * 64, "7" * 64))
    _, problem = run()
    assert isinstance(problem, InputError)
    assert "other variants" in problem.got


def test_policy_without_a_gate_on_leaks_is_refused(
    bench: Bench, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [gate for gate in POLICY.gates if not gate.metric.startswith(("soak.", "foundry.re"))]
    harmless = POLICY.model_copy(update={"gates": others})
    monkeypatch.setattr(soak_order, "load_policy", lambda _: harmless)
    _, problem = run()
    assert isinstance(problem, PolicyRefused)
    assert not bench.calls


def test_outcome_is_shown_on_the_page_of_the_run(bench: Bench, run: Any) -> None:
    bench.heap = STEEP
    _, outcome = run()
    newest: Any = Artifact.get("ingot-soak")
    run_of = FlowRunFilter(id=FlowRunFilterId(any_=[newest.flow_run_id]))
    with get_client(sync_client=True) as client:
        artifacts = client.read_artifacts(flow_run_filter=run_of)
    (shown,) = [one for one in artifacts if str(outcome.folder) in str(one.data)]
    assert shown.key == "ingot-soak"
    assert "demo-int8-cpu:2 does not last: heap" in str(shown.data)


# ---------------------------------------------------------------- the command


def test_command_prints_one_json_document_and_gives_the_exit_code(
    bench: Bench, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.heap = STEEP
    code = soak_command.soak_champion("demo", ExaminationProfile.SMOKE, None, json=True)
    assert code == 3
    outcome = SoakRun.model_validate_json(capsys.readouterr().out)
    assert outcome.leaks
    assert outcome.examination is ExaminationProfile.SMOKE


def test_command_shows_gates_verdict_and_place(
    bench: Bench, run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    code = soak_command.soak_champion("demo", ExaminationProfile.SMOKE, None, json=False)
    assert code == 0
    shown = capsys.readouterr().out
    for words in ("heap_growth", "decode_rate was not asked", "lasts: every", "-soak-demo-"):
        assert words in shown


def test_command_refuses_an_unknown_name_before_anything_is_started(bench: Bench) -> None:
    with pytest.raises(InputError, match="nobody"):
        soak_command.soak_champion("nobody", ExaminationProfile.SMOKE, None, json=False)
    assert not bench.calls
