"""`ingot soak`: runs the soak flow on the champion of a name, and shows what came of it."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import EnvironmentUnfit
from tasks.core.records import ExaminationProfile, GateVerdict

if TYPE_CHECKING:
    from rich.console import Console

    from flows.soak_order import SoakRequest
    from tasks.report.soak_run import SoakRun

DOES_NOT_LAST = 3


def soak_champion(
    name: str, examination: ExaminationProfile, policy: Path | None, *, json: bool
) -> int:
    """Soak the champion of a name, show the outcome, and give the exit code.

    Returns:
        0 when it lasts, 3 when it does not or that is open, 4 when the machine was in the way.

    Raises:
        IngotError: nothing is registered under that name, or nothing could be measured.
    """
    from flows.display import StepDisplay, console_for
    from flows.soak_order import SoakRequest, check_soak

    request = SoakRequest(name=name, examination=examination, policy=policy)
    check_soak(request)  # refused before Prefect is even imported
    console = console_for(json=json)
    with StepDisplay(console):
        outcome = run(request)
    if json:
        json_format.dump(outcome.model_dump(mode="json"), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        show(console, outcome)
    return exit_code(outcome)


def run(request: SoakRequest) -> SoakRun:
    """Run the flow; gives its outcome, or raises its error."""
    from flows.embedded_server import start_prefect
    from flows.supervision import run_flow, stoppable
    from tasks.report.soak_run import SoakRun

    with stoppable(), start_prefect("flows.soak") as watch:
        from flows.soak import soak

        outcome = run_flow(soak, request, watch)
    if not isinstance(outcome, SoakRun):
        raise TypeError(f"the soak flow gave {type(outcome).__name__}, not a SoakRun")
    return outcome


def exit_code(outcome: SoakRun) -> int:
    """Give the command's exit code."""
    if outcome.verdict.verdict is GateVerdict.PASS and not outcome.failures:
        return 0
    unfinished = bool(outcome.failures) and not outcome.leaks
    return EnvironmentUnfit.exit_code if unfinished else DOES_NOT_LAST


def show(console: Console, outcome: SoakRun) -> None:
    """Print the gates, the verdict, and where the evidence is."""
    from rich.markup import escape

    from flows.display import print_rows
    from tasks.report.markdown import gate_rows

    console.print()
    print_rows(console, f"Soak of {outcome.model_id}", gate_rows(outcome.verdict.gates))
    for gate, why in sorted(outcome.verdict.not_asked.items()):
        console.print(f"[dim]{gate} was not asked: {escape(why)}[/]")
    for subject, why in sorted(outcome.failures.items()):
        console.print(f"[red]{escape(subject)} failed: {escape(why)}[/]")
    console.print(f"[bold]Verdict[/]   {escape(outcome.reason)}")
    console.print(f"[bold]Evidence[/]  {escape(str(outcome.folder))}", soft_wrap=True)
    console.print(f"[dim]{outcome.seconds:.1f} s[/]")
