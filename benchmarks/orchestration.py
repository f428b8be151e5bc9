"""What Prefect costs: a release of the demo checkpoint with it, and the same steps without.

Both measure everything anew, each in a home of its own.
"""

from __future__ import annotations

from benchmarks.arithmetic import Figure, ratio
from benchmarks.kept import Kept
from benchmarks.machine import GIB
from benchmarks.places import ROOT, Work
from benchmarks.records import Lane, Plan, Readings, Section, Table
from benchmarks.runner import cost_of, python, run_rounds
from benchmarks.server import ingot_environment, running_server
from tasks.core.records import ExaminationProfile

EMBEDDED, SERVED, PLAIN = "with Prefect", "with Prefect, its server running", "without Prefect"
_PROFILE = ExaminationProfile.SMOKE  # that of `ingot demo`


def measure(work: Work, plan: Plan, kept: Kept) -> None:
    """Release with every lane, once a round."""
    with running_server(work) as address:
        lanes = [
            _lane(EMBEDDED, python("deployments.command", "demo", "--json"), {}, work),
            _lane(
                SERVED,
                python("deployments.command", "demo", "--json"),
                {"PREFECT_API_URL": address},
                work,
            ),
            _lane(
                PLAIN,
                python("benchmarks.plain_release", ROOT / "demo" / "checkpoint", "demo", _PROFILE),
                {},
                work,
            ),
        ]
        run_rounds(lanes, plan, kept)


def _lane(name: str, command: list[str], environment: dict[str, str], work: Work) -> Lane:
    def run(_round: int) -> Readings:
        with work.scratch("home") as home:
            own = {**ingot_environment(work, home), **environment}
            # 3: no variant passed, which a busy machine may lead to; the steps are the same.
            cost = cost_of(command, work, environment=own, codes=(0, 3))
        return cost.readings()

    return Lane(name, run)


def figures(kept: Kept) -> dict[str, Figure]:
    """Give the seconds that Prefect adds."""
    return {"cost_s": kept.seconds_beyond(EMBEDDED, PLAIN)}


def tables(kept: Kept) -> list[Table]:
    """Show the lanes and what the two with Prefect add."""
    rows = []
    for name in (PLAIN, EMBEDDED, SERVED):
        cpu = ratio(kept.values(name, "cpu_s"), kept.values(PLAIN, "cpu_s"))
        rows.append(
            [
                name,
                kept.figure(name, "seconds").in_words(),
                "-" if name == PLAIN else kept.seconds_beyond(name, PLAIN).in_words(),
                kept.figure(name, "cpu_s").in_words(),
                cpu.in_words(),
                kept.figure(name, "peak_rss_bytes").scaled(1 / GIB).in_words(),
            ]
        )
    header = ["release", "wall s", "beyond plain s", "CPU s", "of plain", "peak RAM GiB"]
    note = "CPU seconds: of the command and its children; a server that was running is not in them."
    return [Table("A release of the demo checkpoint", header, rows, note)]


SECTION = Section(
    name="orchestration",
    title="The cost of orchestration",
    about=(
        "`ingot demo` in an empty home against the same plain functions called one after the other "
        "in one process, as wide as the flow. The command starts Prefect's server, or finds one."
    ),
    settings=("threads",),
    measure=measure,
    tables=tables,
    figures=figures,
)
