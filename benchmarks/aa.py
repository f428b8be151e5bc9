"""A/A: how often does the speed measurement call the same weights different?

`python benchmarks/aa.py [FOLDER] [--runs 10] [--profile smoke]`, from the repository root. FOLDER
is a model folder, else the smallest one in INGOT_HOME's store. Every run is a whole measurement of
one variant, whose control lane repeats it: four comparisons, each called different when its whole
interval lies beyond 1 +- 5 %, as in production. Exits 1 when more than one comparison of all runs
is called different, or one has no interval: what was not measured was not found the same.

Says nothing about how fast the model is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tasks.core.fairness import control_ratios, is_different
from tasks.core.files import folder_bytes
from tasks.core.records import (
    ExaminationProfile,
    Measurement,
    Precision,
    Quantisation,
    Recipe,
    Variant,
)
from tasks.core.settings import Settings
from tasks.core.store import MANIFEST, Store
from tasks.examine.protocol import Protocol
from tasks.examine.speed.measure import measure_speed

MOST_DIFFERENT = 1  # of all comparisons


def main() -> int:
    """Run the measurement as often as asked, print every comparison, and count."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--profile", type=ExaminationProfile, default=ExaminationProfile.SMOKE)
    parser.add_argument("--rounds", type=int, help="of a launch, at most; else the profile's")
    asked = parser.parse_args()
    folder = asked.folder or smallest_model(Store(Settings().store))
    timing = Protocol.of(asked.profile).timing
    timing = timing.model_copy(update={"lengths": (), "rounds": asked.rounds or timing.rounds})
    different = compared = unmeasured = 0
    with tempfile.TemporaryDirectory(prefix="ingot-aa-") as home:
        settings = Settings(home=Path(home))
        variant = published(folder, settings)
        for run in range(asked.runs):
            protocol = Protocol(timing=timing, seed=run)
            began = time.monotonic()
            speed = measure_speed([variant], protocol=protocol, settings=settings)
            metrics = speed.evidence[0].metrics
            ratios = control_ratios(metrics)
            different += sum(map(is_different, ratios.values()))
            measured = sum(ratio.ci95 is not None for ratio in ratios.values())
            compared += measured
            unmeasured += len(ratios) - measured
            print(line(run, ratios, metrics["speed.contended"], time.monotonic() - began))
    print(f"{different} of {compared} comparisons of the same weights were called different")
    if unmeasured:
        print(f"{unmeasured} more have no interval")
    return int(different > MOST_DIFFERENT or unmeasured > 0 or compared == 0)


def line(run: int, ratios: dict[str, Measurement], contended: Measurement, seconds: float) -> str:
    """Show one run: ratios with intervals, the different ones marked, and the machine's state."""
    found = "  ".join(
        f"{name.removeprefix('speed.aa_')} {in_words(ratio)}" for name, ratio in ratios.items()
    )
    load = psutil.getloadavg()[0]
    busy = f"contended {contended.value:.0%}, load {load:.1f}"
    return f"run {run + 1:2}: {found}  ({busy}, {seconds:.0f} s)"


def in_words(ratio: Measurement) -> str:
    """Show a ratio with its interval."""
    if ratio.value is None or ratio.ci95 is None:
        return "not measured"
    low, high = ratio.ci95
    mark = " DIFFERENT" if is_different(ratio) else ""
    return f"{ratio.value:.3f} [{low:.3f}, {high:.3f}]{mark}"


def smallest_model(store: Store) -> Path:
    """Find the smallest model folder of a store."""
    objects = store.path("x").parent
    models = [config.parent for config in objects.glob("*/genai_config.json")]
    if not models:
        sys.exit(f"no model in {objects}: release one first, or name a model folder")
    return min(models, key=folder_bytes)


def published(folder: Path, settings: Settings) -> Variant:
    """Put a copy of a model folder into a store of its own."""
    store = Store(settings.store)
    with store.staging() as staged:
        model = shutil.copytree(folder, staged / "model", ignore=shutil.ignore_patterns(MANIFEST))
        digest = store.publish(model)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    return Variant(
        checkpoint_digest="0" * 64,
        recipe=Recipe(precision=Precision.INT4),
        digest=digest,
        toolchain="unknown",
        size_bytes=folder_bytes(folder),
        quantisation=Quantisation(bits={}, block_sizes={}, symmetric=True, embedding_bits=32),
        context_length=config["model"]["context_length"],
        eos_token_ids=[],
        build_seconds=0.0,
        build_cpu_s=0.0,
        build_peak_rss_bytes=0,
    )


if __name__ == "__main__":
    sys.exit(main())
