"""What a release is asked for, as one form: the command, the UI and schedules fill it in.

Apart from the flow, so that the form has one class however the flow file is loaded. The order of
the fields is that of the form: what every release needs first, what few ever touch last.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic.config import JsonDict

from flows.form import Form, FormPath, OptionalPath, OptionalText, choices, optional
from tasks.core.records import BuilderWay, ExaminationProfile, Precision, Profile


class QuantisationOptions(Form):
    """How weights are quantised; what is left empty follows the INT4 profile."""

    model_config = ConfigDict(title="Options")

    block_size: Annotated[Literal[16, 32, 64, 128, 256] | None, choices(16, 32, 64, 128, 256)] = (
        optional(
            "Block size",
            "Weights that share one scale: fewer are closer to the original, more are smaller.",
        )
    )
    is_symmetric: Annotated[bool | None, choices(True, False)] = optional(
        "Symmetric", "false adds a zero point to each block."
    )
    algorithm: Annotated[
        Literal["default", "rtn", "k_quant"] | None, choices("default", "rtn", "k_quant")
    ] = optional("Algorithm", "k_quant is closer and takes about ten times as long to build.")
    accuracy_level: Annotated[Literal[0, 1, 2, 3, 4] | None, choices(0, 1, 2, 3, 4)] = optional(
        "Accuracy level", "4 computes in INT8 (fast on CPUs), 1 in FP32."
    )
    int8_head: Annotated[bool | None, choices(True, False)] = optional(
        "INT8 head", "INT4 only: keep the language head in INT8."
    )
    int8_layers: Annotated[bool | None, choices(True, False)] = optional(
        "INT8 layers", "INT4 only: keep the most sensitive layers in INT8."
    )


def _no_options(given: object) -> object:
    return QuantisationOptions() if given is None else given


def _folded(schema: JsonDict) -> None:
    """Show the options as a switch that is off: a box of drop-downs hides what matters."""
    options = schema.pop("$ref", None)
    if options is not None:
        schema.update(anyOf=[{"$ref": options}, {"type": "null"}], default=None)


class ReleaseRequest(Form):
    """One release."""

    checkpoint: FormPath = Field(
        title="Checkpoint folder",
        description="Hugging Face folder with safetensors weights, as an absolute path on the "
        "worker's machine, such as /models/my-model.",
    )
    name: OptionalText = optional(
        "Name", "Name in Foundry Local, such as my-model. Empty: the folder's name."
    )
    examination: ExaminationProfile = Field(
        default=ExaminationProfile.STANDARD,
        title="Examination",
        description="How much is measured: smoke (minutes; leaves more undecided), standard (what "
        "a release uses) or full (a night).",
    )
    questions: OptionalPath = optional(
        "Question file",
        "Questions of your domain, one JSON object a line. Empty: questions.jsonl in the "
        "checkpoint folder or beside it.",
    )
    approval: bool = Field(
        default=False,
        title="Ask before the champion is changed",
        description="Once a variant has passed every gate, the run waits for somebody who presses "
        "Resume and chooses promote or reject. Off: the smallest that passes ships.",
    )
    approval_hours: float = Field(
        default=24,
        gt=0,
        le=720,
        title="Hours to wait for an answer",
        description="Only where somebody is asked. Without an answer nothing is registered.",
    )
    precisions: list[Literal[Precision.INT4, Precision.INT8, Precision.FP16]] = Field(
        default=[Precision.INT4, Precision.INT8, Precision.FP16],
        min_length=1,
        title="Precisions",
        description="Variants to build. The smallest that passes ships.",
    )
    profile: Profile = Field(
        default=Profile.BALANCED,
        title="INT4 profile",
        description="balanced, quality (INT8 head and sensitive layers: closer, larger) or small "
        "(blocks of 128: smaller).",
    )
    builder: BuilderWay = Field(
        default="fast",
        title="Builder",
        description="fast: all variants from one reading of the weights. plain: one run of the "
        "stock builder for each, for comparison; takes several times as long and as much memory.",
    )
    policy: OptionalPath = optional(
        "Policy file", "Limits that differ from Ingot's own, TOML. `ingot policy` shows them all."
    )
    newest: bool = Field(
        default=False,
        title="Newest checkpoint of a folder",
        description="The folder holds checkpoints, NAME/ or NAME/ANYTHING/: release the newest "
        "without a verdict. A relative folder is then one in INGOT_HOME.",
    )
    options: Annotated[QuantisationOptions, BeforeValidator(_no_options)] = Field(
        default_factory=QuantisationOptions,
        title="Advanced quantisation options",
        description="Single settings of the quantiser in place of the profile's. Few need them.",
        json_schema_extra=_folded,
    )
