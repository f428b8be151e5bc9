"""What a release is asked for, as one form: the command, the UI and schedules fill it in.

Apart from the flow, so that the form has one class however the flow file is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tasks.core.records import Precision, Profile


class QuantisationOptions(BaseModel):
    """Advanced settings; what is left empty follows the profile."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    block_size: Literal[16, 32, 64, 128, 256] | None = Field(
        default=None, description="Weights that share one scale: smaller is closer, larger is less."
    )
    is_symmetric: bool | None = Field(
        default=None, description="Off adds a zero point to each block (INT4, untied models)."
    )
    algorithm: Literal["default", "rtn", "k_quant"] | None = Field(
        default=None, description="k_quant is closer and takes about ten times as long to build."
    )
    accuracy_level: Literal[0, 1, 2, 3, 4] | None = Field(
        default=None, description="4 computes in INT8 (fast on CPUs), 1 in FP32."
    )
    int8_head: bool | None = Field(
        default=None, description="INT4 only: keep the language head in INT8."
    )
    int8_layers: bool | None = Field(
        default=None, description="INT4 only: keep the most sensitive layers in INT8."
    )


class ReleaseRequest(BaseModel):
    """One release."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path = Field(description="Hugging Face folder with safetensors weights.")
    name: str | None = Field(
        default=None, description="Name in Foundry Local; the folder's name when empty."
    )
    precisions: list[Literal[Precision.INT4, Precision.INT8, Precision.FP16]] = Field(
        default=[Precision.INT4, Precision.INT8, Precision.FP16],
        min_length=1,
        description="Variants to build. The smallest that passes ships.",
    )
    profile: Profile = Field(
        default=Profile.BALANCED,
        description="INT4: balanced, quality (INT8 head, sensitive layers) or small (block 128).",
    )
    options: QuantisationOptions = Field(default_factory=QuantisationOptions)
    questions: Path | None = Field(
        default=None,
        description="Domain questions (JSONL); else questions.jsonl in or beside the checkpoint.",
    )
    policy: Path | None = Field(
        default=None, description="Limits (TOML) that differ from Ingot's own."
    )
