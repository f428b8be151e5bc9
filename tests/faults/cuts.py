"""A power cut: whatever was not synced is lost, and what was promised is still there."""

from __future__ import annotations

from tests.faults.chain import power_cut, struck_and_resumed
from tests.faults.kills import BUILT, OBJECT, REGISTER
from tests.faults.points import at_rename, in_child, of_step
from tests.faults.power_cut import cut_power
from tests.faults.runs import Champion
from tests.faults.table import Row
from tests.faults.workshop import Scene, scenario


@scenario
def power_cut_while_a_variant_is_built(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("int4")
    bench.forget("tune-variants")
    kills = [
        power_cut(at_rename("build int4, just built", BUILT, "after"), "build int4"),
        power_cut(at_rename("build int4, just published", OBJECT, "after"), "build int4"),
        power_cut(of_step("tune variants", "started"), "build int4"),
    ]
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({"int4": 4})


@scenario
def power_cut_while_it_registers_and_reports(scene: Scene) -> None:
    bench = scene.bench()
    step, run = "register champion", r"/runs/[^/]*-demo-[0-9a-f]+$"
    folder = r"/foundry/custom/demo-int4-cpu/v1$"
    kills = [
        power_cut(at_rename(f"{step}, its folder visible", folder, "after", REGISTER), step),
        power_cut(
            in_child(f"{step}, its index entry written", REGISTER, r"^asking demo-int4"), step
        ),
        power_cut(
            at_rename(f"{step}, after the ledger's entry", r"/ledger/demo\.json$", "after"), step
        ),
        power_cut(at_rename("write report, just published", run, "after"), "write report"),
    ]
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({})


@scenario
def power_cut_after_the_end(scene: Scene) -> None:
    bench = scene.bench()
    bench.require_champion(bench.release(), scene.warm.champion, "the end")
    lost = cut_power(bench.home, bench.meeting, bench.began_at)
    bench.look(f"a power cut after the end, which lost {lost}")
    run = bench.release()
    outcome = run.outcome()
    assert Champion.of(outcome) == scene.warm.champion
    # The model that was promised is the one that is there: it is found, not registered again.
    assert outcome["registration"]["created"] is False
    scene.tell(Row("power cut", "after the end", "champion, report and variants are there", None))
