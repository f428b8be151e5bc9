"""Raw rows for the sample release: every kind that a page can draw, the same each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from tasks.report.metrics_json import metrics_json
from tests.golden.sample_release import INT4, INT8, sample_dossier

REFERENCE = "e" * 64
QUESTIONS = [f"q-{number:03d}" for number in range(60)]
HARMED = {INT4: QUESTIONS[:7], INT8: QUESTIONS[:1]}
CATEGORIES = ("single", "multi_turn", "out_of_scope")


def sample_frames() -> dict[str, pd.DataFrame]:
    """Give the frames by name, as a run's folder holds them."""
    return {
        "outputs": pd.concat([_answers(REFERENCE, "reference", []), *map(_own_answers, HARMED)]),
        "kld": pd.concat([_tokens(INT4, -4.0), _tokens(INT8, -7.0)]),
        "categories": pd.concat([_categories(INT4, 0.9), _categories(INT8, 0.99)]),
        "positions": pd.concat([_positions(INT4, 0.02), _positions(INT8, 0.0004)]),
        "samples": pd.concat([_samples(INT4, "int4", 6.0), _samples(INT8, "int8", 7.5)]),
        "latency": pd.concat([_latency(INT4, 6.0), _latency(INT8, 7.5)]),
        "memory": pd.concat([_memory(INT4, 120), _memory(INT8, 9_000)]),
    }


def write_sample_run(folder: Path, **changes: pd.DataFrame | None) -> Path:
    """Write the sample release with its frames as a run's folder; None leaves a frame out."""
    folder.mkdir(parents=True)
    frames = {name: f for name, f in (sample_frames() | changes).items() if f is not None}
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet")
    rows = {name: len(frame) for name, frame in frames.items()}
    document = metrics_json(sample_dossier().model_copy(update={"frames": rows}))
    (folder / "metrics.json").write_text(document, encoding="utf-8")
    return folder


def _own_answers(digest: str) -> pd.DataFrame:
    return _answers(digest, "variant", HARMED[digest])


def _answers(digest: str, suite: str, harmed: list[str]) -> pd.DataFrame:
    right = [name not in harmed for name in QUESTIONS]
    texts = ['{"intent":"light_on","room":"kitchen"}', '{"intent":"light_off","room":"kitchen"}']
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": suite,
            "question_id": QUESTIONS,
            "category": [CATEGORIES[place % 3] for place in range(len(QUESTIONS))],
            "text": [texts[0] if good else texts[1] for good in right],
            "right": right,
        }
    )


def _tokens(digest: str, middle: float) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": "variant",
            "question_id": np.repeat(QUESTIONS, 20),
            "kld": 10 ** rng.normal(middle, 1.2, 20 * len(QUESTIONS)),
        }
    )


def _categories(digest: str, share: float) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": "variant",
            "category": CATEGORIES,
            "n": [400, 60, 20],
            "right": share,
            "right_low": share - 0.05,
            "right_high": min(1.0, share + 0.03),
            "right_reference": 0.995,
            "flips": [3, 9, 0],
        }
    )


def _positions(digest: str, level: float) -> pd.DataFrame:
    starts = np.asarray([0, 128, 256, 512, 1024])
    mean = level * np.asarray([1.3, 1.0, 0.95, 1.0, 1.1])
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": "variant",
            "bucket_start": starts,
            "bucket_end": [128, 256, 512, 1024, 2048],
            "n": 500,
            "kld_mean": mean,
            "low": mean * 0.7,
            "high": mean * 1.5,
        }
    )


def _samples(digest: str, lane: str, milliseconds: float) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    gaps = rng.lognormal(np.log(milliseconds / 30_000), 0.25, (12, 31))
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": "speed",
            "lane": lane,
            "phase": ["warm", "length", *["run"] * 10],
            "n_in": 128,
            "itl": list(gaps),
        }
    )


def _latency(digest: str, milliseconds: float) -> pd.DataFrame:
    lengths = np.asarray([16, 64, 256, 1024, 2048])
    fit = (milliseconds + 0.02 * lengths + 4e-6 * lengths**2) / 1000
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": "speed",
            "n": lengths,
            "wall_s": fit * [1.3, 1.1, 1.4, 1.2, 1.1],
            "cpu_s": fit * [1.02, 0.97, 1.0, 1.03, 0.99],
            "fit_s": fit,
        }
    )


def _memory(digest: str, growth: float) -> pd.DataFrame:
    at = np.arange(1300)
    rng = np.random.default_rng(2)
    steps = rng.integers(0, 40, len(at)) * 4096 + np.minimum(at, 300) * 4000
    return pd.DataFrame(
        {
            "variant_id": digest,
            "suite": "soak",
            "i": at,
            "n_in": np.resize([16, 32, 64, 128, 192], len(at)),
            "anon_b": 60 * 2**20 + steps + growth * at,
            "heap_b": 20 * 2**20 + 0.9 * growth * at,
        }
    )
