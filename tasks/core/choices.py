"""What a request chooses among: precisions and profiles.

Apart from the records, so that the command can name the choices in its help without pydantic: the
records' models take 0.25 s of CPU time to make, of 0.65 s that help took (2 cores, 2026-11).
"""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Precision of a variant's weights; FP32 is the reference and never shipped."""

    INT4 = "int4"
    INT8 = "int8"
    FP16 = "fp16"
    FP32 = "fp32"


class Profile(StrEnum):
    """A named choice of INT4 options."""

    BALANCED = "balanced"
    QUALITY = "quality"
    SMALL = "small"


class ExaminationProfile(StrEnum):
    """How much is measured: the fewest observations that can decide, the usual, a night's worth."""

    SMOKE = "smoke"
    STANDARD = "standard"
    FULL = "full"
