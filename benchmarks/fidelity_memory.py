"""How much memory does the KL divergence need, above that of the two models?

`python benchmarks/fidelity_memory.py [FOLDER]`, from the repository root: builds FP32 and INT4 of a
random model of Qwen2.5-0.5B's shape (vocabulary 151,936) in FOLDER, which is kept and used again,
or in a temporary one; then compares them on 16 windows of 256 tokens in a process of its own.
Exits 1 when the peak lies more than 1.2 GiB above the models' memory, or climbs from window to
window. Linux only; 5 GB of disk, 5 GB of memory, about four minutes on two cores.

Says nothing about how far the two models are from each other: the weights are random.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for tests/, which is no installed package

from tasks.core.records import Precision, Recipe  # noqa: E402
from tasks.core.settings import Settings  # noqa: E402
from tasks.core.store import Store  # noqa: E402
from tasks.examine.fidelity import TEXT, compare_with_reference, fidelity_metrics  # noqa: E402
from tasks.examine.generation import Engine  # noqa: E402
from tasks.examine.hugging_face import CheckpointTokenizer  # noqa: E402
from tasks.examine.plain_text import text_windows  # noqa: E402
from tasks.examine.protocol import Protocol, TextPlan  # noqa: E402
from tasks.variants.build import build_variant  # noqa: E402
from tests.tiny_models import checkpoint_record, write_half_billion_checkpoint  # noqa: E402

GIB = 1024**3
LIMIT_BYTES = 1.2 * GIB
CLIMB_BYTES = 0.1 * GIB  # of the later windows' peaks above those of the first ones
PLAN = TextPlan(windows=16, window_tokens=256)


def main() -> int:
    """Build once, then measure in a fresh process, which torch was never loaded into."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        return measure(asked.folder)
    with tempfile.TemporaryDirectory(prefix="ingot-fidelity-") as temporary:
        folder = (asked.folder or Path(temporary)).absolute()
        prepare(folder)
        again = [sys.executable, __file__, str(folder), "--measure"]
        return subprocess.run(again, check=False).returncode


def prepare(folder: Path) -> None:
    """Write the checkpoint and build both models, unless an earlier run did."""
    if (folder / "built.json").is_file():
        return
    print("writing a random checkpoint, building FP32 and INT4", flush=True)
    settings = Settings(home=folder / "home")
    checkpoint = checkpoint_record(write_half_billion_checkpoint(folder / "checkpoint"))
    built = {
        precision: str(
            Store(settings.store).path(
                build_variant(checkpoint, Recipe(precision=precision), settings=settings).digest
            )
        )
        for precision in (Precision.FP32, Precision.INT4)
    }
    (folder / "built.json").write_text(json.dumps(built), encoding="utf-8")


def measure(folder: Path) -> int:
    """Compare the two models window by window, and read the peak of each."""
    built = json.loads((folder / "built.json").read_text(encoding="utf-8"))
    windows = text_windows(
        CheckpointTokenizer(folder / "checkpoint"), PLAN, context_length=PLAN.window_tokens
    )
    reference, variant = Engine(Path(built["fp32"])), Engine(Path(built["int4"]))
    loaded = memory("VmRSS")
    for engine in (reference, variant):  # a short sequence: the working memory of the graphs
        for _ in engine.logits(windows[0].tokens[:16]):
            pass
    ready, began = memory("VmRSS"), time.monotonic()
    peaks, rows = [], []
    for window in windows:
        reset_peak()
        rows.append(compare_with_reference(reference, variant, [window], silent, corpus=TEXT))
        peaks.append(memory("VmHWM"))
    seconds = time.monotonic() - began
    reset_peak()
    found = fidelity_metrics(pd.concat(rows), Protocol(text=PLAN), corpus=TEXT)["text.kld_mean"]
    peaks_after = memory("VmHWM")
    above = max(*peaks, peaks_after) - ready
    half = len(peaks) // 2
    climb = float(np.median(peaks[half:]) - np.median(peaks[1:half]))
    print(
        f"both models loaded {loaded / GIB:.2f} GiB, after a short sequence {ready / GIB:.2f} GiB"
    )
    print("peak above that, by window, GiB:", " ".join(f"{(p - ready) / GIB:.2f}" for p in peaks))
    print(f"summarising: {(peaks_after - ready) / GIB:.2f} GiB; {found.n} tokens, {seconds:.0f} s")
    print(f"peak {above / GIB:.2f} GiB above the models (limit {LIMIT_BYTES / GIB:.1f}), ", end="")
    print(f"{(max(*peaks, peaks_after) - loaded) / GIB:.2f} above loading; climb {climb / GIB:.3f}")
    return int(above > LIMIT_BYTES or climb > CLIMB_BYTES)


def memory(field: str) -> int:
    """Read one figure of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def reset_peak() -> None:
    """Let VmHWM begin again at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def silent(_line: str) -> None:
    """Say nothing."""


if __name__ == "__main__":
    sys.exit(main())
