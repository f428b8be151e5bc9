"""Sweep threads and spinning, and publish a variant anew with the setting that is faster.

The parent side; the clock is in `tune_child.py`. The files stay the same but for
genai_config.json, which ONNX Runtime GenAI and Foundry Local both read: a device that the variant
is used on should be of the kind that it was tuned on.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.core.child import run_child
from tasks.core.files import folder_bytes
from tasks.core.records import Cost, Digest, Evidence, Measurement, Record, Variant
from tasks.core.settings import Settings
from tasks.core.shared_store import store_of
from tasks.core.store import MANIFEST, Store
from tasks.examine.examination import FramesRequest, Say, examine_in_child, usable_cores
from tasks.examine.protocol import Protocol
from tasks.examine.speed.measure import TimedVariant, timed_variant

METRIC_NAMES = ("tune.threads", "tune.spinning", "tune.gain")
GENAI_CONFIG = "genai_config.json"
THREADS, SPINNING = "intra_op_num_threads", "session.intra_op.allow_spinning"

_START_S = 60.0
_PROOF_S = 300.0
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class Setting(Record):
    """How the engine shares its work out.

    Attributes:
        threads: of one operator.
        spinning: threads without work wait in a loop, not in the kernel.
    """

    threads: int
    spinning: bool

    def session_options(self) -> dict[str, Any]:
        """Say it in the words of genai_config.json; `config_entries` is unknown to 0.18."""
        return {THREADS: self.threads, SPINNING: "1" if self.spinning else "0"}

    def in_words(self) -> str:
        """Name it for rows and notes."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{threads}, {'spinning' if self.spinning else 'not spinning'}"


class TuneRequest(FramesRequest):
    """What the child needs to sweep; candidates are the same for all variants."""

    variants: list[TimedVariant]
    candidates: list[Setting]
    protocol: Protocol


class Choice(Record):
    """What the sweep found for one variant.

    Attributes:
        best: the fastest candidate, if its gain was measured.
        gain: its time over that of the variant as built.
        taken: it is faster without a doubt, on a machine that had nothing else to do.
        contended: the machine was busy with other things; another hour may say another thing.
    """

    digest: Digest
    best: Setting | None
    gain: Measurement
    taken: bool
    contended: bool
    notes: list[str]


class Choices(Record):
    """One choice a variant."""

    choices: list[Choice]


class ProofRequest(Record):
    """A folder that must load and make tokens."""

    digest: Digest
    folder: Path


class Proof(Record):
    """It did: seconds from the start of its process to the first token."""

    start_s: float


class Tuned(Record):
    """The variants as they are to be examined, and why.

    Attributes:
        variants: in the order given; those with another setting have another digest.
        evidence: one a variant, under its new digest; empty where nothing was swept.
        contended: digests whose sweep a busy machine spoilt: they were kept as built.
    """

    variants: list[Variant]
    evidence: list[Evidence]
    contended: list[Digest]

    def objects(self) -> list[str]:
        """The model folders and the raw rows."""
        parts = [*self.variants, *self.evidence]
        return sorted({name for part in parts for name in part.objects()})

    def is_settled(self) -> bool:
        """Only when the machine was free: what a busy one prefers is no setting for a device."""
        return not self.contended and all(part.is_settled() for part in self.evidence)


def tune_variants(
    variants: Sequence[Variant],
    *,
    protocol: Protocol,
    settings: Settings,
    say: Say = lambda _line: None,
) -> Tuned:
    """Find the number of threads, and whether they spin, that answers a chat soonest.

    A setting other than that as built is taken only when its whole interval is more than 5 %
    faster, so that noise never changes a digest. The frames hold `tuning.parquet`, a row a run.

    Raises:
        VariantUnusable: a variant does not load or decode, or is not what was built.
        ChildKilled: a worker was killed, most likely for memory.
    """
    plan = protocol.timing
    if not variants or plan.tune_budget_s == 0:
        evidence = [_not_swept(variant.digest) for variant in variants]
        return Tuned(variants=list(variants), evidence=evidence, contended=[])
    store = store_of(settings)
    timed = [timed_variant(variant, store) for variant in variants]
    swept = candidates(usable_cores())
    starts = len(timed) * (len(swept) + 1 + 2 * plan.launches)
    found, frames, cost = examine_in_child(
        "tasks.examine.speed.tune_child:sweep",
        lambda frames: TuneRequest(
            frames=frames, variants=timed, candidates=swept, protocol=protocol
        ),
        Choices,
        log_name=f"tune-{variants[0].checkpoint_digest[:12]}.log",
        deadline_s=2 * plan.tune_budget_s + starts * _START_S,
        settings=settings,
        say=say,
    )
    tuned = [
        _published(variant, choice.best, settings) if choice.taken and choice.best else variant
        for variant, choice in zip(variants, found.choices, strict=True)
    ]
    return Tuned(
        variants=tuned,
        evidence=[
            _evidence(variant, choice, store, frames, cost)
            for variant, choice in zip(tuned, found.choices, strict=True)
        ],
        contended=[
            variant.digest
            for variant, choice in zip(tuned, found.choices, strict=True)
            if choice.contended
        ],
    )


def candidates(physical_cores: int) -> list[Setting]:
    """List the settings to try: one thread, half of the cores, all of them; spinning and not.

    One thread has nobody to wait for, so it is tried once.
    """
    counts = sorted({1, max(1, physical_cores // 2), physical_cores})
    return [
        Setting(threads=threads, spinning=spinning)
        for threads in counts
        for spinning in ((False, True) if threads > 1 else (False,))
    ]


def _published(variant: Variant, setting: Setting, settings: Settings) -> Variant:
    """Put a variant's files into the store once more, with another setting; proven to load."""
    store = store_of(settings)
    with store.staging() as staged, _links_undone(staged / "model") as folder:
        _link_but_config(store.path(variant.digest), folder)
        _write_config(store.path(variant.digest), folder, setting)
        run_child(
            "tasks.examine.speed.tune_child:prove",
            ProofRequest(digest=variant.digest, folder=folder),
            Proof,
            log=settings.logs / f"tune-{variant.checkpoint_digest[:12]}.log",
            deadline_s=_PROOF_S,
        )
        size_bytes = folder_bytes(folder)
        digest = store.publish(folder)
    return variant.model_copy(update={"digest": digest, "size_bytes": size_bytes})


@contextmanager
def _links_undone(folder: Path) -> Iterator[Path]:
    """Give a new folder; what is linked into it goes at the end unless the folder was published.

    The store makes writable what it removes, and a link's permissions are those of its original.
    """
    folder.mkdir()
    try:
        yield folder
    finally:
        if os.name != "nt":
            for file in folder.rglob("*"):
                if file.is_file():
                    file.unlink()


def _link_but_config(source: Path, target: Path) -> None:
    for file in sorted(entry for entry in source.rglob("*") if entry.is_file()):
        name = file.relative_to(source)
        if name.as_posix() in (GENAI_CONFIG, MANIFEST):
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _link(file, target / name)


def _link(file: Path, target: Path) -> None:
    try:
        # On Windows a link is as read-only as its original, and nothing read-only can be removed.
        if os.name != "nt":
            os.link(file, target)
            return
    except OSError as problem:
        if problem.errno not in _NO_LINK:
            raise
    shutil.copyfile(file, target)


def _write_config(source: Path, target: Path, setting: Setting) -> None:
    whole = json.loads((source / GENAI_CONFIG).read_text(encoding="utf-8"))
    whole["model"]["decoder"]["session_options"].update(setting.session_options())
    text = json.dumps(whole, indent=4) + "\n"
    (target / GENAI_CONFIG).write_text(text, encoding="utf-8", newline="\n")


def _not_swept(digest: Digest) -> Evidence:
    nothing = Measurement(value=None, n=0, method="this profile sweeps no threads", applies=False)
    return Evidence(suite="tune", subject=digest, metrics=dict.fromkeys(METRIC_NAMES, nothing))


def _evidence(
    variant: Variant, choice: Choice, store: Store, frames: Digest, cost: Cost
) -> Evidence:
    config = json.loads((store.path(variant.digest) / GENAI_CONFIG).read_text(encoding="utf-8"))
    options = config["model"]["decoder"]["session_options"]
    spins = options.get(SPINNING, "1") == "1"
    metrics = {
        "tune.threads": Measurement(
            value=float(options.get(THREADS, 0)),
            method=f"{THREADS} of {GENAI_CONFIG}; 0 is the engine's own choice",
        ),
        "tune.spinning": Measurement(
            value=float(spins), method=f"{SPINNING} of {GENAI_CONFIG}; 1 where nothing is written"
        ),
        "tune.gain": choice.gain,
    }
    return Evidence(
        suite="tune",
        subject=variant.digest,
        metrics=metrics,
        notes=choice.notes,
        frames=frames,
        cost=cost,
    )
