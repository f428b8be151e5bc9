"""kill -9 of the flow at the boundaries and in the middle of each step, and of each step's child.

In the middle means: while the step's child has just said what it is doing.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.variants.build import FAN_OUT_TARGET
from tests.faults.chain import Fault, children_killed, kill, struck_and_resumed
from tests.faults.points import Point, at_rename, at_write, in_child, of_step
from tests.faults.predecessor import put_champion_in_place
from tests.faults.workshop import Scene, scenario

BUILD = "tasks.variants.build_child"
PROBE = "tasks.variants.probe"
REFERENCE = "tasks.examine.reference_child"
VARIANT = "tasks.examine.variant_child"
EDGE = "tasks.examine.edge.edge_child"
SOAK = "tasks.examine.soak.soak_child"
SPEED = "tasks.examine.speed.schedule"
STAGE = "tasks.foundry.stage_child"
STAGE_EDGE = "tasks.foundry.edge.suite_child"
RELOAD = "tasks.foundry.reload_child"
REGISTER = "tasks.foundry.register_child"
FRAMES = "tasks.report.frames"
PAGE = "tasks.report.html.page"

BUILT = r"/store/built/int4-[^/]*$"
BUILT_ANY = r"/store/built/[^/]*$"
OBJECT = r"/store/objects/[0-9a-f]{64}$"


def _kills(step: str, *points: Point) -> list[Fault]:
    return [kill(point, step) for point in points]


@scenario
def flow_killed_before_anything_is_built(scene: Scene) -> None:
    bench = scene.bench()
    kills = [
        *_kills("check environment", of_step("check environment", "started")),
        *_kills("admit checkpoint", of_step("admit checkpoint", "started")),
        *_kills("admit checkpoint", of_step("admit checkpoint", "waiting")),
        *_kills("admit checkpoint", of_step("admit checkpoint", "finished")),
        *_kills("forecast builds", of_step("forecast builds", "finished")),
    ]
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({})


@scenario
def flow_killed_while_the_reference_is_built(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("fp32")
    kills = _kills(
        "build fp32",
        of_step("build fp32", "started"),
        in_child("build fp32", BUILD, "building the"),
        of_step("build fp32", "finished"),
    )
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    # Each of the last two kills costs the build that it fell into.
    bench.require_builds({"fp32": 3})


@scenario
def flow_killed_while_a_variant_is_built(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("int4")
    kills = _kills(
        "build int4",
        in_child("build int4", BUILD, "starting Olive"),
        at_rename("build int4, before it waits to be probed", BUILT, "before"),
        at_rename("build int4, while it waits to be probed", BUILT, "after"),
        in_child("build int4, when it is loaded", PROBE),
        at_rename("build int4, before it is published", OBJECT, "before"),
        at_rename("build int4, after it is published", OBJECT, "after"),
        at_write("build int4, its record half-written", r"/records/.*build-variant-"),
    )
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({"int4": 1 + len(kills)})


@scenario
def flow_killed_while_variants_are_built_together(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("fp32")
    bench.forget_build("int4")
    kills = _kills(
        "build int4",
        in_child("build fp32 and int4 together", FAN_OUT_TARGET, "starting Olive"),
        in_child("build fp32 and int4 together, both made", FAN_OUT_TARGET, "reading back"),
        at_rename("build fp32 and int4 together, one of them kept", BUILT_ANY, "after"),
    )
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    # All three kills cost one of the two its build; the other was kept before the last.
    bench.require_builds({"fp32": 4, "int4": 4}, most_in_all=7)


@scenario
def flow_killed_while_variants_are_examined(scene: Scene) -> None:
    bench = scene.bench()
    for task in ("tune-variants", "examine-reference", "examine-variant", "examine-edge-cases"):
        bench.forget(task)
    kills = [
        *_kills("tune variants", of_step("tune variants", "started")),
        *_kills("tune variants", of_step("tune variants", "finished")),
        *_kills("examine reference", in_child("examine reference", REFERENCE, "Hugging Face")),
        *_kills("examine reference", of_step("examine reference", "finished")),
        *_kills("examine int4", in_child("examine int4", VARIANT)),
        *_kills("examine int4", of_step("examine int4", "finished")),
        *_kills("edge cases int4", in_child("edge cases int4", EDGE, "edge cases 9/")),
        *_kills("edge cases int4", of_step("edge cases int4", "finished")),
    ]
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({})


@scenario
def flow_killed_while_variants_are_strained(scene: Scene) -> None:
    bench = scene.bench()
    for task in ("soak-variant", "stage-in-foundry-local", "measure-speed"):
        bench.forget(task)
    kills = [
        *_kills("soak int4", in_child("soak int4", SOAK)),
        *_kills("stage int4", in_child("stage int4", STAGE, "loading in Foundry")),
        *_kills("stage int4", in_child("stage int4, edge cases", STAGE_EDGE, "edge case: ")),
        *_kills("stage int4", of_step("stage int4", "finished")),
        *_kills("measure speed", in_child("measure speed", SPEED)),
        *_kills("measure speed", of_step("measure speed", "finished")),
    ]
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({})


@scenario
def flow_killed_while_it_judges_registers_and_reports(scene: Scene) -> None:
    bench = scene.bench()
    step, ledger = "register champion", r"/ledger/demo\.json$"
    folder, run = r"/foundry/custom/demo-int4-cpu/v1$", r"/runs/[^/]*-demo-[0-9a-f]+$"
    kills = [
        *_kills("judge", of_step("judge", "started"), of_step("judge", "finished")),
        *_kills(
            step,
            of_step(step, "started"),
            in_child(f"{step}, bytes checked", REGISTER, "checking every byte"),
            at_rename(f"{step}, its files linked", folder, "before", REGISTER),
            at_rename(f"{step}, its folder visible", folder, "after", REGISTER),
            in_child(f"{step}, in the index, while it answers", REGISTER, "over HTTP"),
            in_child(f"{step}, found in the index", REGISTER, r"^asking demo-int4-cpu:1$"),
            at_rename(f"{step}, before the ledger's entry", ledger, "before"),
            at_rename(f"{step}, after the ledger's entry", ledger, "after"),
        ),
        *_kills(
            "write report",
            of_step("write report", "started"),
            in_child("write report, drawing", PAGE, "drawing"),
            at_rename("write report, before it is published", run, "before"),
            at_rename("write report, after it is published", run, "after"),
        ),
    ]
    struck_and_resumed(bench, kills, scene.warm.champion, scene.tell)
    bench.require_builds({})


@scenario
def flow_killed_while_it_replaces_a_champion(scene: Scene) -> None:
    bench = scene.bench()
    put_champion_in_place(bench)
    step, folder = "register champion", r"/foundry/custom/demo-int4-cpu/v2$"
    kills = _kills(
        step,
        at_rename(f"{step}, its folder beside the old one's", folder, "after", REGISTER),
        in_child(f"{step}, its entry beside the old one's", REGISTER, r"^asking demo-int4-cpu:2$"),
        at_rename(f"{step}, before it replaces the old one", r"/ledger/demo\.json$", "before"),
    )
    expected = replace(scene.warm.champion, model_id="demo-int4-cpu:2")
    struck_and_resumed(bench, kills, expected, scene.tell)
    bench.require_builds({})


@scenario
def child_killed_in_builds(scene: Scene) -> None:
    bench = scene.bench()
    bench.forget_build("int4")
    points = [
        (in_child("build int4", BUILD, "building the"), "build int4"),
        (in_child("build int4, when it is loaded", PROBE), "build int4"),
    ]
    children_killed(bench, points, scene.warm.champion, scene.tell)
    bench.require_builds({"int4": 3})


@scenario
def child_killed_in_examinations(scene: Scene) -> None:
    bench = scene.bench()
    for task in ("examine-reference", "examine-variant", "examine-edge-cases"):
        bench.forget(task)
    points = [
        (in_child("examine reference", REFERENCE, "Hugging Face"), "examine reference"),
        (in_child("examine int4", VARIANT), "examine int4"),
        (in_child("edge cases int4", EDGE, "edge cases 9/"), "edge cases int4"),
    ]
    children_killed(bench, points, scene.warm.champion, scene.tell)
    bench.require_builds({})


@scenario
def child_killed_under_strain_and_at_the_end(scene: Scene) -> None:
    bench = scene.bench()
    for task in ("soak-variant", "stage-in-foundry-local", "measure-speed"):
        bench.forget(task)
    points = [
        (in_child("soak int4", SOAK), "soak int4"),
        (in_child("stage int4", STAGE, "loading in Foundry"), "stage int4"),
        (in_child("stage int4, loads", RELOAD), "stage int4"),
        (in_child("measure speed", SPEED), "measure speed"),
        (in_child("register champion", REGISTER, r"^asking demo-int4-cpu:1$"), "register champion"),
        (in_child("write report", PAGE, "drawing"), "write report"),
    ]
    children_killed(bench, points, scene.warm.champion, scene.tell)
    bench.require_builds({})
