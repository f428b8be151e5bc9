"""A release that was made before, asked for again: nothing changed, the hashing remains.

Beside it the flow run again all the same, where every step that measures is a cache hit.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.arithmetic import Figure
from benchmarks.checkpoints import checkpoint_of
from benchmarks.kept import Kept
from benchmarks.machine import sources_digest
from benchmarks.places import Work
from benchmarks.records import Lane, Model, NotMeasured, Plan, Readings, Section, Table
from benchmarks.runner import cost_of, python, run_rounds, tell
from benchmarks.server import ingot_environment, running_server
from tasks.core.records import Checkpoint
from tasks.judge.policy import load_policy

HASH, AGAIN = "hashing alone", "the release again"
FLOW, SERVED = "the flow again", "the flow again, Prefect's server running"
_FLOW = "--again"


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Release once, then again with every lane, once a round."""
    model = checkpoint_of(plan.size, work)
    home = work.root / f"rerun-{plan.size:g}b-home"
    with running_server(work) as address:
        served = {**ingot_environment(work, home), "PREFECT_API_URL": address}
        lanes = [
            Lane(HASH, lambda _round: _hash(model, work)),
            Lane(AGAIN, lambda _round: _again(model, home, [], {}, work, plan)),
            Lane(FLOW, lambda _round: _again(model, home, [_FLOW], {}, work, plan)),
            Lane(SERVED, lambda _round: _again(model, home, [_FLOW], served, work, plan)),
        ]
        run_rounds(lanes, plan, kept)


def _command(model: Model, work: Work, plan: Plan) -> list[str]:
    questions = work.root / f"questions-{plan.questions}.jsonl"
    lines = (model.folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions.write_text("\n".join(lines[: plan.questions]) + "\n", encoding="utf-8")
    options = ("-p", "int4", "--examination", "smoke", "--questions", questions, "--json")
    return python(
        *("deployments.command", "release", model.folder, "--name", "again"),
        *("--policy", _policy(work), *options),
    )


def _policy(work: Work) -> Path:
    """Write a policy by which a random model ships, for only what shipped can stand unchanged."""
    kept = "build_bits"
    names = [gate.name for gate in load_policy(None).gates if gate.name != kept]
    file = work.root / "policy.toml"
    file.write_text("".join(f'[gates.{name}]\nseverity = "warn"\n' for name in names), "utf-8")
    return file


def _again(
    model: Model,
    home: Path,
    options: Sequence[str],
    environment: dict[str, str],
    work: Work,
    plan: Plan,
) -> Readings:
    own = {**ingot_environment(work, home), **environment}
    command = _command(model, work, plan)
    with work.scratch("again") as folder:
        said = folder / "release.json"
        first, sources = home / "first.txt", sources_digest()
        if not first.is_file() or first.read_text(encoding="utf-8") != sources:
            tell("  releasing for the first time: long")
            cost_of(command, work, environment=own, output=said)
            first.write_text(sources, encoding="utf-8")
        cost = cost_of([*command, *options], work, environment=own, output=said)
        found = json.loads(said.read_text(encoding="utf-8"))
    if "cached" not in found:
        raise NotMeasured(f"the release ended with {found.get('message', 'no outcome')}")
    if found["unchanged"] == bool(options):
        raise NotMeasured("a release that did not change was made, or one that was asked for not")
    cached = 0 if found["unchanged"] else len(found["cached"])
    return {**cost.readings(), "cached_steps": float(cached)}


def _hash(model: Model, work: Work) -> Readings:
    return cost_of(python("benchmarks.rerun", model.record), work).readings()


def figures(kept: Kept) -> dict[str, Figure]:
    """Give the seconds beyond hashing."""
    return {"beyond_hashing_s": kept.seconds_beyond(AGAIN, HASH)}


def tables(kept: Kept) -> list[Table]:
    """Show the lanes."""
    rows = [
        [
            name,
            kept.figure(name, "seconds").in_words(),
            "-" if name == HASH else kept.seconds_beyond(name, HASH).in_words(),
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
        "`ingot release` of a checkpoint that was released before, with and without `--again`, "
        "against reading and hashing the checkpoint's files in a process of its own, the start of "
        "Python included."
    ),
    settings=("size", "questions"),
    measure=measure,
    tables=tables,
    figures=figures,
)


def main() -> int:
    """Hash a checkpoint: what a process that does nothing else takes."""
    from tasks.core.checkpoint_files import checkpoint_digest

    record = Checkpoint.model_validate_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(checkpoint_digest(record.path, record.weight_files))
    return 0


if __name__ == "__main__":
    sys.exit(main())
