"""How soon the command answers: its help, and its look at the machine."""

from __future__ import annotations

from benchmarks.arithmetic import Figure
from benchmarks.kept import Kept
from benchmarks.places import Work
from benchmarks.records import Lane, Plan, Readings, Section, Table
from benchmarks.runner import cost_of, python, run_rounds
from benchmarks.server import ingot_environment

HELP, CHECK, BARE = "ingot --help", "ingot check", "python -c pass"


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Start each command, once a round."""
    commands = {
        HELP: python("deployments.command", "--help"),
        CHECK: python("deployments.command", "check"),
        BARE: [*python("deployments")[:1], "-c", "pass"],
    }
    run_rounds([_lane(name, command, work) for name, command in commands.items()], plan, kept)


def _lane(name: str, command: list[str], work: Work) -> Lane:
    def run(_round: int) -> Readings:
        with work.scratch("home") as home:
            own = ingot_environment(work, home)
            return cost_of(command, work, environment=own).readings()

    return Lane(name, run)


def figures(kept: Kept) -> dict[str, Figure]:
    """Give the seconds."""
    return {"help_s": kept.figure(HELP, "seconds"), "check_s": kept.figure(CHECK, "seconds")}


def tables(kept: Kept) -> list[Table]:
    """Show the commands."""
    rows = [
        [
            f"`{name}`",
            kept.figure(name, "seconds").in_words(),
            kept.figure(name, "cpu_s").in_words(),
        ]
        for name in (BARE, HELP, CHECK)
    ]
    return [Table("Start-up", ["command", "wall s", "CPU s"], rows)]


SECTION = Section(
    name="start-up",
    title="Start-up",
    about="Processes from start to end, nothing cached but the files themselves.",
    settings=(),
    measure=measure,
    tables=tables,
    figures=figures,
)
