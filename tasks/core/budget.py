"""What the steps that load models need of memory, told from sizes alone.

Upper estimates; who may run when is decided in `reservations.py`.
"""

from __future__ import annotations

from tasks.core.records import Checkpoint, Precision

GIB = 1024**3

# Python, transformers, torch, ONNX Runtime, the tokenizer.
BASE_BYTES = GIB
FP32_BYTES = 4
LOGITS_AT_ONCE = 128  # positions whose logits are compared in one piece

# Resident bytes for each byte of the model's files, upper estimates (ONNX Runtime 1.31 on x86,
# 2026-11). FP16 weights become FP32 at load: 2.5 measured. Of a 0.5 B model the children that
# examined it took 6.1 GB for the reference and 4.1 GB for INT4; this module says 6.8 and 4.4.
_LOADED_PER_FILE_BYTE = {
    Precision.FP32: 1.25,
    Precision.FP16: 2.6,
    Precision.INT8: 1.7,
    Precision.INT4: 1.7,
}


def examine_reference_bytes(checkpoint: Checkpoint, reference_bytes: int) -> int:
    """Estimate the peak memory of the FP32 ONNX model and Hugging Face's in one child.

    Args:
        checkpoint: its weights become FP32, while its files are still mapped.
        reference_bytes: size of the FP32 ONNX model.
    """
    hugging_face = FP32_BYTES * checkpoint.parameters + checkpoint.source_bytes
    return loaded_bytes(Precision.FP32, reference_bytes) + hugging_face + _around(checkpoint)


def examine_variant_bytes(
    checkpoint: Checkpoint, reference_bytes: int, precision: Precision, variant_bytes: int
) -> int:
    """Estimate the peak memory of a variant beside the FP32 ONNX model in one child."""
    reference = loaded_bytes(Precision.FP32, reference_bytes)
    return reference + loaded_bytes(precision, variant_bytes) + _around(checkpoint)


def stage_bytes(checkpoint: Checkpoint, precision: Precision, variant_bytes: int) -> int:
    """Estimate the peak memory of one variant in two runtimes at once."""
    return 2 * loaded_bytes(precision, variant_bytes) + _around(checkpoint)


def loaded_bytes(precision: Precision, model_bytes: int) -> int:
    """Estimate what an ONNX model occupies on the CPU once it has answered."""
    return round(_LOADED_PER_FILE_BYTE[precision] * model_bytes)


def _around(checkpoint: Checkpoint) -> int:
    """Estimate what is held beside weights: the libraries, and two models' logits in float64."""
    return BASE_BYTES + 2 * checkpoint.vocabulary_size * LOGITS_AT_ONCE * 8
