"""A release that was made before, asked for again: nothing changed, the hashing remains.

The release of a large random model is asked for, under a policy that lets it ship: only what
shipped stands. Beside it the flow of the demo checkpoint, run again all the same: every step that
measures is a cache hit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arithmetic import Figure
from benchmarks.checkpoints import checkpoint_of
from benchmarks.kept import Kept
from benchmarks.places import Work
from benchmarks.records import Lane, Model, NotMeasured, Plan, Readings, Section, Table
from benchmarks.runner import cost_of, python, run_rounds, tell
from benchmarks.server import ingot_environment, running_server
from tasks.judge.policy import load_policy

HASH, AGAIN = "hashing alone", "the release again"
FLOW, SERVED = "the demo's flow again", "the demo's flow again, Prefect's server running"
_DEMO = ("demo", "--again", "--json")
_TRIES = 4
_STANDS = "benchmark-stands"  # a file in the home of a release that has stood once


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Release once, then again with every lane, once a round."""
    model = checkpoint_of(plan.size, work)
    home, demo = work.root / f"rerun-{plan.size:g}b-home", work.root / "rerun-demo-home"
    with running_server(work) as address:
        lanes = [
            Lane(HASH, lambda _round: _hash(model, work)),
            Lane(AGAIN, lambda _round: _again(model, home, work, plan)),
            Lane(FLOW, lambda _round: _flow(demo, "", work)),
            Lane(SERVED, lambda _round: _flow(demo, address, work)),
        ]
        run_rounds(lanes, plan, kept)


def _options(model: Model, work: Work, plan: Plan) -> list[str]:
    questions = work.root / f"questions-{plan.questions}.jsonl"
    lines = (model.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions.write_text("\n".join(lines[: plan.questions]) + "\n", encoding="utf-8")
    measured = ["--examination", "smoke", "--questions", str(questions)]
    return ["--name", "again", "-p", "int4", *measured, "--policy", str(_policy(work))]


def _policy(work: Work) -> Path:
    """Write a policy by which a random model ships, for only what shipped can stand."""
    kept = "build_bits"
    names = [gate.name for gate in load_policy(None).gates if gate.name != kept]
    file = work.root / "policy.toml"
    file.write_text("".join(f'[gates.{name}]\nseverity = "warn"\n' for name in names), "utf-8")
    return file


def _again(model: Model, home: Path, work: Work, plan: Plan) -> Readings:
    own, options = ingot_environment(work, home), _options(model, work, plan)
    command = python("deployments.command", "release", model.folder, "--json", *options)
    if not (home / _STANDS).exists():
        tell("  releasing for the first time: long")
        _release_until_it_stands(command, own, work)
        (home / _STANDS).touch()
    cost, found = _outcome(command, own, work)
    if not found["unchanged"]:
        raise NotMeasured("a release of which nothing changed was made again")
    return cost


def _release_until_it_stands(command: list[str], environment: dict[str, str], work: Work) -> None:
    """Release; what was timed on a busy machine does not stand, and is timed again."""
    for _ in range(_TRIES):
        if _outcome(command, environment, work)[1]["unchanged"]:
            return
    raise NotMeasured(f"none of {_TRIES} releases stands: see {environment['INGOT_HOME']}/runs")


def _flow(home: Path, server: str, work: Work) -> Readings:
    own = {**ingot_environment(work, home), "PREFECT_API_URL": server}
    command = python("deployments.command", *_DEMO)
    if not home.is_dir():
        tell("  releasing the demo for the first time")
        cost_of(command, work, environment=own)
    cost, found = _outcome(command, own, work)
    return {**cost, "cached_steps": float(len(found["cached"]))}


def _outcome(
    command: Sequence[str], environment: dict[str, str], work: Work
) -> tuple[Readings, dict[str, Any]]:
    with work.scratch("again") as folder:
        said = folder / "release.json"
        cost = cost_of(command, work, environment=environment, output=said)
        found: dict[str, Any] = json.loads(said.read_text(encoding="utf-8"))
    return cost.readings(), found


def _hash(model: Model, work: Work) -> Readings:
    return cost_of(python("benchmarks.hash_checkpoint", model.record), work).readings()


def figures(kept: Kept) -> dict[str, Figure]:
    """Give the seconds beyond hashing."""
    return {"beyond_hashing_s": kept.seconds_beyond(AGAIN, HASH)}


def tables(kept: Kept) -> list[Table]:
    """Show the lanes."""
    rows = [
        [
            name,
            kept.figure(name, "seconds").in_words(),
            kept.seconds_beyond(name, HASH).in_words() if name == AGAIN else "-",
            kept.figure(name, "cpu_s").in_words(),
            kept.figure(name, "cached_steps").in_words() if name in (FLOW, SERVED) else "-",
        ]
        for name in (HASH, AGAIN, FLOW, SERVED)
    ]
    header = ["what", "wall s", "beyond hashing s", "CPU s", "steps that were cache hits"]
    return [Table("A release again", header, rows)]


SECTION = Section(
    name="rerun",
    title="A release again",
    about=(
        "`ingot release` of a checkpoint that was released before and has not changed, against "
        "reading and hashing its files in a process of its own, the start of Python included. "
        "Beside it `ingot demo --again`, which runs the flow all the same."
    ),
    settings=("size", "questions"),
    measure=measure,
    tables=tables,
    figures=figures,
)
