"""A release that was made before, asked for again: nothing changed, the hashing remains.

The release of a large random model is asked for; for only what another try can't change stands, and
a random model leaves things unmeasured (it answers nothing right), its note is written here. Beside
it the flow of the demo checkpoint, run again all the same: every step that measures is a cache hit.
"""

from __future__ import annotations

import json
import sys
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


def _request(model: Model, work: Work, plan: Plan) -> dict[str, str]:
    questions = work.root / f"questions-{plan.questions}.jsonl"
    lines = (model.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions.write_text("\n".join(lines[: plan.questions]) + "\n", encoding="utf-8")
    return {
        "checkpoint": str(model.folder),
        "name": "again",
        "examination": "smoke",
        "questions": str(questions),
        "policy": str(_policy(work)),
    }


def _policy(work: Work) -> Path:
    """Write a policy by which a random model ships, for only what shipped can stand."""
    kept = "build_bits"
    names = [gate.name for gate in load_policy(None).gates if gate.name != kept]
    file = work.root / "policy.toml"
    file.write_text("".join(f'[gates.{name}]\nseverity = "warn"\n' for name in names), "utf-8")
    return file


def _again(model: Model, home: Path, work: Work, plan: Plan) -> Readings:
    own, request = ingot_environment(work, home), _request(model, work, plan)
    options = [word for key in list(request)[1:] for word in (f"--{key}", request[key])]
    command = python(
        *("deployments.command", "release", model.folder, "-p", "int4", "--json"), *options
    )
    if not (home / "ledger").is_dir():
        tell("  releasing for the first time: long")
        cost_of([*command, "--again"], work, environment=own)
    note = python("benchmarks.rerun", json.dumps(request | {"precisions": ["int4"]}))
    cost_of(note, work, environment=own)
    cost, found = _outcome(command, own, work)
    if not found["unchanged"]:
        raise NotMeasured("a release of which nothing changed was made again")
    return cost


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
        "reading and hashing its files in a process of its own, the start of Python included. A "
        "random model is never wholly measured, so that its release has been noted by the "
        "benchmark. Beside it `ingot demo --again`, which runs the flow all the same."
    ),
    settings=("size", "questions"),
    measure=measure,
    tables=tables,
    figures=figures,
)


def note(request: str) -> None:
    """Note the release of the champion as one that nothing can change, whatever it left open."""
    from flows.parameters import ReleaseRequest
    from flows.preflight import check_request
    from flows.unchanged import inputs_digest, note_release
    from tasks.core.settings import Settings
    from tasks.examine.speed.tune import Tuned
    from tasks.foundry.ledger import champion_of
    from tasks.report.load import load_run

    settings = Settings()
    order = check_request(ReleaseRequest.model_validate_json(request))
    champion = champion_of(settings, "again")
    if champion is None:
        raise NotMeasured("the release registered nothing")
    release = load_run(settings.runs / champion.run_id).release
    nothing = Tuned(variants=release.variants, evidence=[], contended=[])
    note_release(inputs_digest(order), order, release, nothing, [], settings)


if __name__ == "__main__":
    note(sys.argv[1])
