"""The `ingot` command: fills in a request, runs the flow, shows what came of it.

Heavy imports sit inside the commands, so that help and refusals come at once. Exit codes: 0
champion, 2 bad input, 3 no variant passed, 4 environment, 1 anything unforeseen.
"""

from __future__ import annotations

import io
import json as json_format
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from tasks.core.choices import ExaminationProfile, Precision, Profile
from tasks.core.errors import EnvironmentUnfit, IngotError, InputError, named

if TYPE_CHECKING:
    from flows.approval import Asker
    from flows.parameters import ReleaseRequest
    from flows.preflight import Order
    from tasks.core.records import Release

NO_VARIANT_PASSED = 3
REGRESSED = 3
INTERRUPTED = 130
DEMO = Path(__file__).resolve().parents[1] / "demo"

app = typer.Typer(
    name="ingot",
    help="Release a fine-tuned small language model to Foundry Local, with evidence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # frames around the help would take as long as all the rest of it
    pretty_exceptions_enable=False,
)


class Shippable(StrEnum):
    """The precisions that may ship; FP32 is the reference and is built for every release."""

    INT4 = "int4"
    INT8 = "int8"
    FP16 = "fp16"


CheckpointArgument = Annotated[
    Path, typer.Argument(help="Hugging Face folder with safetensors weights.", show_default=False)
]
PrecisionOption = Annotated[
    list[Shippable],
    typer.Option("--precision", "-p", help="Variant to build; repeat for several."),
]
BuilderOption = Annotated[
    Literal["fast", "plain"],
    typer.Option(help="fast: one reading of the weights for all; plain: the stock builder."),
]
ProfileOption = Annotated[Profile, typer.Option(help="Choice of INT4 options.")]
BlockSizeOption = Annotated[
    int | None, typer.Option(help="Weights that share one scale: 16, 32, 64, 128 or 256.")
]
SymmetricOption = Annotated[
    bool | None, typer.Option("--symmetric/--asymmetric", help="Without or with zero points.")
]
AlgorithmOption = Annotated[str | None, typer.Option(help="default, rtn or k_quant.")]
AccuracyOption = Annotated[
    int | None, typer.Option(help="4 computes in INT8 (fast on CPUs), 1 in FP32.")
]
HeadOption = Annotated[
    bool | None, typer.Option("--int8-head/--int4-head", help="Language head of INT4.")
]
LayersOption = Annotated[
    bool | None, typer.Option("--int8-layers/--int4-layers", help="Sensitive layers of INT4.")
]
PolicyOption = Annotated[Path | None, typer.Option(help="Limits that differ, TOML.")]
NameOption = Annotated[
    str | None, typer.Option(help="Name in Foundry Local; else the folder's name.")
]
ExaminationOption = Annotated[
    ExaminationProfile,
    typer.Option(help="How much is measured: smoke takes minutes, full a night."),
]
ApproveOption = Annotated[
    bool, typer.Option("--approve", help="Show the verdict and ask before the champion changes.")
]
NewestOption = Annotated[
    bool,
    typer.Option(
        "--newest", help="The folder holds checkpoints: take the newest without a verdict."
    ),
]
AgainOption = Annotated[
    bool,
    typer.Option("--again", help="Run the flow even where nothing has changed."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


@app.command()
def release(
    checkpoint: CheckpointArgument,
    name: NameOption = None,
    precision: PrecisionOption = list(Shippable),  # noqa: B006  (Typer copies it)
    profile: ProfileOption = Profile.BALANCED,
    block_size: BlockSizeOption = None,
    symmetric: SymmetricOption = None,
    algorithm: AlgorithmOption = None,
    accuracy_level: AccuracyOption = None,
    int8_head: HeadOption = None,
    int8_layers: LayersOption = None,
    builder: BuilderOption = "fast",
    examination: ExaminationOption = ExaminationProfile.STANDARD,
    questions: Annotated[Path | None, typer.Option(help="Domain questions, JSONL.")] = None,
    policy: PolicyOption = None,
    approve: ApproveOption = False,
    newest: NewestOption = False,
    again: AgainOption = False,
    json: JsonOption = False,
) -> None:
    """Build, examine and judge the variants of a checkpoint; register the smallest that passes."""
    fields = {
        "checkpoint": _here(checkpoint),
        "name": name,
        "precisions": [Precision(one.value) for one in dict.fromkeys(precision)],
        "profile": profile,
        "options": _options(
            block_size, symmetric, algorithm, accuracy_level, int8_head, int8_layers
        ),
        "builder": builder,
        "examination": examination,
        "questions": _here(questions),
        "policy": _here(policy),
        "approval": approve,
        "newest": newest,
    }
    _release(fields, again=again, json=json)


@app.command()
def demo(
    examination: ExaminationOption = ExaminationProfile.SMOKE,
    again: AgainOption = False,
    json: JsonOption = False,
) -> None:
    """Release the demo checkpoint that Ingot ships: the whole way in about two minutes."""
    fields = {"checkpoint": DEMO / "checkpoint", "name": "demo", "examination": examination}
    _release(fields, again=again, json=json)


@app.command()
def check(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="Also forecast its builds.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:
    """Look at this machine, the packages and Foundry Local; with a checkpoint, forecast."""
    from flows.checking import check_machine
    from flows.display import console_for, print_environment, print_rows

    with errors_shown(json):
        environment, forecasts = check_machine(checkpoint)
        if json:
            document = environment.model_dump(mode="json")
            _print_json({"environment": document, "forecasts": forecasts})
        else:
            console = console_for(json=False)
            print_environment(console, environment)
            if forecasts:
                print_rows(console, "Forecast", forecasts)
    if environment.problems:
        raise typer.Exit(EnvironmentUnfit.exit_code)


@app.command(name="list")
def list_champions(json: JsonOption = False) -> None:
    """List what is registered: the champion of each name."""
    from flows.display import console_for, print_champions
    from flows.inventory import champions

    with errors_shown(json):
        rows = champions()
        if json:
            _print_json(rows)
        elif rows:
            print_champions("Champions", rows)
        else:
            console_for(json=False).print("Nothing is registered yet; try `ingot demo`.")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A name of `ingot list`.", show_default=False)],
    json: JsonOption = False,
) -> None:
    """Show the champion of a name, the ones before it, and the evidence."""
    from flows.display import print_champions
    from flows.inventory import history

    with errors_shown(json):
        rows = history(name)
        if json:
            _print_json(rows)
        else:
            print_champions(f"{name}, newest first", rows)


@app.command()
def chat(
    name: Annotated[str, typer.Argument(help="A name of `ingot list`.", show_default=False)],
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Ask this once, and leave.")
    ] = None,
) -> None:
    """Talk with the champion of a name through Foundry Local."""
    from flows.conversation import converse

    with errors_shown(json=False):
        converse(name, question)


@app.command()
def rollback(
    name: Annotated[str, typer.Argument(help="A name of `ingot list`.", show_default=False)],
) -> None:
    """Go back to the champion before: loaded and asked first, then made champion again."""
    from flows.display import console_for
    from flows.inventory import go_back, may_go_back
    from flows.rollback_event import tell_server

    with errors_shown(json=False):
        present, _ = may_go_back(name)
        champion = go_back(name)
        console_for(json=False).print(f"{champion.model_id} is champion of {name} again.")
        if untold := tell_server(name, champion, instead_of=present):
            sys.stderr.write(f"{untold}\n")


@app.command()
def soak(
    name: Annotated[str, typer.Argument(help="A name of `ingot list`.", show_default=False)],
    examination: ExaminationOption = ExaminationProfile.FULL,
    policy: PolicyOption = None,
    json: JsonOption = False,
) -> None:
    """Let the champion of a name run for long, and tell whether it leaks or slows down."""
    from flows.soak_command import soak_champion

    with errors_shown(json):
        code = soak_champion(name, examination, _here(policy), json=json)
    if code:
        raise typer.Exit(code)


@app.command()
def policy(
    file: Annotated[Path | None, typer.Option("--policy", help="Limits that differ, TOML.")] = None,
    json: JsonOption = False,
) -> None:
    """Print every gate in force, its limits, and the line of the file each of them is from."""
    from flows.display import console_for
    from flows.policy_view import policy_document, print_policy

    with errors_shown(json):
        document = policy_document(file.expanduser() if file else None)
        if json:
            _print_json(document)
        else:
            print_policy(console_for(json=False), document)


@app.command()
def compare(
    first: Annotated[
        str,
        typer.Argument(help="Run before: its id, folder, model id or name.", show_default=False),
    ],
    second: Annotated[
        str, typer.Argument(help="Run after; `latest` is the last one.", show_default=False)
    ],
    everything: Annotated[
        bool, typer.Option("--all", help="Also what is the same in both.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Compare two runs: regressed, better, the same, or can't tell, metric by metric."""
    from flows.comparison import comparison, has_regressed, print_comparison
    from flows.display import console_for
    from tasks.core.settings import Settings

    with errors_shown(json):
        document = comparison(first, second, Settings())
        if json:
            _print_json(document)
        else:
            print_comparison(console_for(json=False), document, everything=everything)
    if has_regressed(document):
        raise typer.Exit(REGRESSED)


@app.command(name="olive-config")
def olive_config(
    checkpoint: CheckpointArgument,
    precision: Annotated[Precision, typer.Option("--precision", "-p")] = Precision.INT4,
    profile: ProfileOption = Profile.BALANCED,
    block_size: BlockSizeOption = None,
    symmetric: SymmetricOption = None,
    algorithm: AlgorithmOption = None,
    accuracy_level: AccuracyOption = None,
    int8_head: HeadOption = None,
    int8_layers: LayersOption = None,
    builder: BuilderOption = "fast",
    output: Annotated[
        Path | None, typer.Option(help="Folder for config.json and package-config.json.")
    ] = None,
) -> None:
    """Print the Olive configuration of a variant; with --output, ready for `olive run`."""
    from flows.olive import configuration

    options = _options(block_size, symmetric, algorithm, accuracy_level, int8_head, int8_layers)
    overrides = {key: value for key, value in options.items() if value is not None}
    with errors_shown(json=False):
        print(configuration(checkpoint, precision, profile, overrides, output, builder))
        if output is None:
            sys.stderr.write(
                "To run it, Olive needs the package configuration too: --output DIR.\n"
            )


def main() -> None:
    """Run the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a code page without `✓` stops no release
            stream.reconfigure(errors="replace")
    try:
        app()
    except SystemExit as leaving:
        if "flows.supervision" in sys.modules:  # else no flow was run, and none left behind
            from flows.supervision import leave

            leave(leaving.code)
        raise


def _options(
    block_size: int | None,
    is_symmetric: bool | None,
    algorithm: str | None,
    accuracy_level: int | None,
    int8_head: bool | None,
    int8_layers: bool | None,
) -> dict[str, object]:
    """Name the quantisation options as `QuantisationOptions` does."""
    return dict(locals())


def _release(fields: Mapping[str, object], *, again: bool, json: bool) -> None:
    from flows.approval_prompt import require_terminal, terminal_asker
    from flows.display import StepDisplay, console_for, print_release
    from flows.unchanged import unchanged_release
    from tasks.core.settings import Settings

    console = console_for(json=json)
    with errors_shown(json):
        request, order = _request(fields, json=json)
        if request.approval:
            require_terminal(json=json)
        with StepDisplay(console) as display:
            before = None if again else unchanged_release(request, order, Settings())
            outcome = before or _run(request, terminal_asker(console, display))
        if json:
            _print_json({**outcome.model_dump(mode="json"), "unchanged": before is not None})
        else:
            print_release(console, outcome, is_unchanged=before is not None)
    if outcome.registration is None:
        unfinished = bool(outcome.environment_faults)
        raise typer.Exit(EnvironmentUnfit.exit_code if unfinished else NO_VARIANT_PASSED)


def _here(path: Path | None) -> Path | None:
    """Mean a path as the shell does: a request may be run by a process that works elsewhere."""
    return path.expanduser().absolute() if path else None


def _request(fields: Mapping[str, object], *, json: bool) -> tuple[ReleaseRequest, Order]:
    """Refuse what is wrong before Prefect is even imported."""
    from pydantic import ValidationError

    from flows.parameters import ReleaseRequest
    from flows.preflight import check_request

    try:
        request = ReleaseRequest.model_validate(fields)
    except ValidationError as problem:
        first = problem.errors()[0]
        option = str(first["loc"][-1]).replace("_", "-")
        raise InputError(
            f"--{option}: {first['msg']}", got=repr(first["input"]), next_step="see --help"
        ) from problem
    if request.newest:
        request = _newest(request, json=json)
    return request, check_request(request)


def _newest(request: ReleaseRequest, *, json: bool) -> ReleaseRequest:
    """Choose among the checkpoints of a folder; leave where none is new, which is no fault."""
    from flows.newest import newest_without_verdict, nothing_new
    from tasks.core.settings import Settings

    chosen = newest_without_verdict(request, Settings())
    if chosen is not None:
        return chosen
    reason = nothing_new(request, Settings())
    if json:
        _print_json({"nothing_new": reason})
    else:
        sys.stderr.write(f"Nothing new: {reason}.\n")
    raise typer.Exit


def _run(request: ReleaseRequest, asker: Asker) -> Release:
    from flows.embedded_server import start_prefect
    from flows.supervision import run_flow, stoppable
    from tasks.core.records import Release

    with stoppable(), start_prefect("flows.release") as watch:
        from flows.approval import asking
        from flows.release import release as flow

        with asking(asker):
            outcome = run_flow(flow, request, watch)
    if not isinstance(outcome, Release):
        raise TypeError(f"the release flow gave {type(outcome).__name__}, not a Release")
    return outcome


class errors_shown:  # noqa: N801  (used as a keyword: `with errors_shown(json):`)
    """Turn Ingot's errors into one clear message and the exit code of their kind."""

    def __init__(self, json: bool) -> None:
        self._json = json

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, problem: BaseException | None, trace: object) -> None:
        """Show an error of Ingot's tree; let any other pass."""
        if isinstance(problem, KeyboardInterrupt):
            sys.stderr.write("Stopped. Finished steps are kept: run the same command again.\n")
            raise typer.Exit(getattr(problem, "exit_code", INTERRUPTED))
        if isinstance(problem, IngotError | OSError | MemoryError):
            _fail(named(problem), json=self._json)


def _fail(problem: IngotError, *, json: bool) -> NoReturn:
    from rich.console import Console
    from rich.markup import escape

    if json:
        _print_json({"error": type(problem).__name__, **problem.to_fields()})
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]{type(problem).__name__}:[/] {escape(problem.message)}")
    parts = (("expected", problem.expected), ("got", problem.got), ("next", problem.next_step))
    for label, text in parts:
        if text:
            console.print(f"  [dim]{label:<9}[/]{escape(text)}")
    raise typer.Exit(problem.exit_code)


def _print_json(document: object) -> None:
    json_format.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
