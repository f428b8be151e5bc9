"""A small release for the recovery tests: real children, no tools, the command's own supervision.

Runs as a command: `python recovery_flow.py DIARY SECONDS PATIENCE`; exits as `ingot release` does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

HERE = Path(__file__).parent


class Order(BaseModel):
    diary: Path
    name: str
    seconds: float


class Request(BaseModel):
    diary: Path
    seconds: float


class Receipt(BaseModel):
    name: str


def work(order: Order) -> Receipt:
    """Do what a build does: start a process of its own, be busy for long, write, end."""
    helper = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({order.seconds})"])
    note(order.diary, f"began {order.name} {os.getpid()} {helper.pid}")
    time.sleep(order.seconds)
    helper.kill()
    note(order.diary, f"ended {order.name}")
    return Receipt(name=order.name)


def note(diary: Path, line: str) -> None:
    with diary.open("a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def small_release() -> Any:
    """Give a flow that builds two things side by side, then one alone."""
    from prefect import flow, task
    from prefect.task_runners import ThreadPoolTaskRunner

    from tasks.core.child import children_stopped_on_interrupt, run_child
    from tasks.core.task import RETRYING, UNCACHED

    here = {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}

    @task(name="build", task_run_name="build {name}", **RETRYING, **UNCACHED)
    def build(diary: Path, name: str, seconds: float) -> str:
        order = Order(diary=diary, name=name, seconds=seconds)
        log = diary.with_name(f"{name}.log")
        receipt, _ = run_child(
            "recovery_flow:work", order, Receipt, log=log, deadline_s=300, environment=here
        )
        return receipt.name

    @flow(name="recovery", task_runner=ThreadPoolTaskRunner(max_workers=2), persist_result=False)
    def recovery(request: Request) -> list[str]:
        diary, seconds = request.diary, request.seconds
        with children_stopped_on_interrupt():
            futures = [build.submit(diary, name, seconds) for name in ("int4", "int8")]
            for future in futures:
                future.wait()
            return [*(future.result() for future in futures), build(diary, "fp16", 0.5)]

    return recovery


def main(diary: Path, seconds: float, patience_s: float) -> None:
    from flows import server_watch
    from flows.command import errors_shown
    from flows.embedded_server import start_prefect
    from flows.supervision import leave, run_flow, stoppable

    server_watch.PATIENCE_S = patience_s
    code: object = 0
    try:
        with errors_shown(json=False), stoppable(), start_prefect("prefect") as watch:
            request = Request(diary=diary, seconds=seconds)
            note(diary, f"made {run_flow(small_release(), request, watch)}")
    except typer.Exit as problem:
        code = problem.exit_code
    leave(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
