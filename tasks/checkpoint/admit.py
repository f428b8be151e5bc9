"""Admit a checkpoint: everything that can be known to be wrong before anything is spent on it.

Only reads, and leaves nothing behind. Whether the model can be built, and whether it is any good,
is for the later steps to find out.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.checkpoint.architecture import (
    CONFIG,
    EMBEDDING,
    HEAD,
    Architecture,
    compare_tensors,
    read_architecture,
)
from tasks.checkpoint.folder import CheckpointFolder, open_folder, refuse_unsafe_content
from tasks.checkpoint.tokenizer import (
    check_tokenizer,
    find_chat_template,
    read_generation_defaults,
)
from tasks.checkpoint.weights import Weights, read_weights
from tasks.core.checkpoint_files import deciding_files
from tasks.core.errors import CheckpointRefused, InputError, ResourceBusy
from tasks.core.files import digest_of, sha256_file
from tasks.core.records import Checkpoint

log = logging.getLogger(__name__)

SAY_EVERY_BYTES = 128 * 1024 * 1024
# Foundry Local's rule for model names (2.2.1), in lower case; the length leaves room for
# `-int4-cpu` within the file name limits of every system.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Inspection:
    """What the structure of a sound checkpoint says; no tensor was read for it."""

    folder: CheckpointFolder
    architecture: Architecture
    weights: Weights
    tied_embeddings: bool
    chat_template_file: str
    eos_token_ids: list[int]
    sampling: dict[str, float]


def inspect_checkpoint(path: Path) -> Inspection:
    """Check a checkpoint's structure: files, JSON, headers, shapes; milliseconds, no hashing.

    Raises:
        CheckpointRefused: something is missing, unsafe or contradicts something else.
    """
    folder = open_folder(path)
    refuse_unsafe_content(folder)
    architecture = read_architecture(folder)
    weights = read_weights(folder)
    tensors = weights.tensors
    compare_tensors(folder.files[CONFIG], architecture, tensors)
    check_tokenizer(folder, architecture)
    template = find_chat_template(folder)
    eos, sampling = read_generation_defaults(folder, architecture)
    return Inspection(
        folder=folder,
        architecture=architecture,
        weights=weights,
        tied_embeddings=architecture.is_tied(tensors),
        chat_template_file=template,
        eos_token_ids=eos,
        sampling=sampling,
    )


def admit_checkpoint(
    path: Path, *, name: str | None = None, say: Callable[[str], None] = lambda _line: None
) -> Checkpoint:
    """Check a checkpoint in full, every weight included, and give its record.

    Args:
        path: a Hugging Face checkpoint folder.
        name: what the release is called; the folder's name when None.
        say: gets one line of progress at a time.

    Raises:
        InputError: the name cannot be a model name.
        CheckpointRefused: see `inspect_checkpoint`; also NaN or infinity in a tensor.
        ResourceBusy: a file changed meanwhile.
    """
    say("reading structure")
    inspection = inspect_checkpoint(path)
    chosen = choose_name(name, path)
    before = _fingerprint(inspection)
    digest = _hash_and_scan(inspection, say)
    _refuse_untied_head(inspection)
    if _fingerprint(inspection) != before:
        raise ResourceBusy(
            f"{inspection.folder.path} changed while it was read",
            next_step="wait until the checkpoint is written in full, then release it again",
        )
    checkpoint = _record(inspection, chosen, digest)
    say(f"{checkpoint.family}, {checkpoint.parameters:,} parameters, {digest[:12]}")
    log.info("admitted %s as %s, digest %s", path, chosen, digest)
    return checkpoint


def choose_name(given: str | None, path: Path) -> str:
    """Give the release's name: the given one in lower case, or one made of the folder's name.

    Raises:
        InputError: the given name breaks Foundry Local's rule, or none can be made.
    """
    folder = path.name if path.name not in ("", "..") else path.resolve().name
    name = given.lower() if given is not None else _slug(folder)
    if NAME.fullmatch(name):
        return name
    suggestion = _slug(name)
    raise InputError(
        f"{given if given is not None else folder!r} cannot be the name of a release",
        expected="letters, digits, dots, underscores and hyphens, at most 100, a letter or digit "
        "first",
        next_step=f"call it {suggestion}" if suggestion else "choose a name, such as my-model",
    )


def _slug(text: str) -> str:
    dashed = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    return dashed.lstrip("._-")[:100].rstrip("._-")


def _fingerprint(inspection: Inspection) -> dict[str, tuple[int, int]]:
    """Give size and time of change of all files in use."""
    return {
        name: (file.stat().st_size, file.stat().st_mtime_ns)
        for name, file in _deciding_files(inspection).items()
    }


def _deciding_files(inspection: Inspection) -> dict[str, Path]:
    folder = inspection.folder
    weights = {shard.path.name for shard in inspection.weights.shards}
    return {name: folder.files[name] for name in deciding_files(folder.files, weights)}


def _hash_and_scan(inspection: Inspection, say: Callable[[str], None]) -> str:
    """Give what `checkpoint_digest` gives, reading the weights once for it and for NaN."""
    from tasks.checkpoint.content_scan import scan_shard  # numpy: not in `ingot --help`

    total, done = inspection.weights.size_bytes, 0

    def count(size: int) -> None:
        nonlocal done
        if done // SAY_EVERY_BYTES != (done + size) // SAY_EVERY_BYTES:
            say(f"checking weights, {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
        done += size

    digests = {
        shard.path.name: scan_shard(shard, on_bytes=count) for shard in inspection.weights.shards
    }
    for name, file in _deciding_files(inspection).items():
        if name not in digests:
            digests[name] = sha256_file(file)
    return digest_of(digests.items())


def _refuse_untied_head(inspection: Inspection) -> None:
    """Refuse a head of its own in a checkpoint whose config says that the head is the embedding.

    Loaders ignore such a head or not, each in its way; what was fine-tuned would be lost.
    """
    from tasks.checkpoint.content_scan import have_same_bytes

    tensors = inspection.weights.tensors
    if not inspection.tied_embeddings or not {HEAD, EMBEDDING} <= tensors.keys():
        return
    locate = inspection.weights.locate
    if not have_same_bytes(locate(HEAD), locate(EMBEDDING)):
        raise CheckpointRefused(
            f"{inspection.folder.path} ties its language head to the embedding, and has another "
            f"one in {HEAD}",
            expected="equal bytes, or tie_word_embeddings false in config.json",
            next_step="set tie_word_embeddings to what training used and save the model again",
        )


def _record(inspection: Inspection, name: str, digest: str) -> Checkpoint:
    architecture, weights = inspection.architecture, inspection.weights
    elements: Counter[str] = Counter()
    for tensor in weights.tensors.values():
        is_copy = inspection.tied_embeddings and tensor.name == HEAD
        if not is_copy:
            elements[tensor.dtype] += tensor.elements
    return Checkpoint(
        name=name,
        path=inspection.folder.path,
        digest=digest,
        family=architecture.model_type,
        architecture=architecture.architectures[0],
        parameters=elements.total(),
        weight_dtype=elements.most_common(1)[0][0],
        source_bytes=weights.size_bytes,
        weight_files=[shard.path.name for shard in weights.shards],
        hidden_size=architecture.hidden_size,
        layers=architecture.num_hidden_layers,
        attention_heads=architecture.num_attention_heads,
        kv_heads=architecture.kv_heads,
        head_size=architecture.head_size,
        vocabulary_size=architecture.vocab_size,
        context_length=architecture.max_position_embeddings,
        tied_embeddings=inspection.tied_embeddings,
        eos_token_ids=inspection.eos_token_ids,
        chat_template_file=inspection.chat_template_file,
        sampling=inspection.sampling,
    )
