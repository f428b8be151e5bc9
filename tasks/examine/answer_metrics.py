"""How a variant's answers differ from the reference's to the same questions, in numbers.

Rows in (`answers_frame`), measurements out; whether a change is acceptable, the judge knows.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import bdtr  # not scipy.stats: a second of imports

from tasks.core.records import Measurement
from tasks.core.statistics import LEVEL, cluster_ratio, paired_difference, wilson
from tasks.examine.metrics import (
    Metrics,
    count,
    not_applicable,
    paired_change,
    paired_ratio,
    share,
    with_interval,
)
from tasks.examine.protocol import Protocol

METRIC_NAMES = (
    "answers.right",
    "answers.right_reference",
    "answers.delta",
    "answers.recovery",
    "answers.flip_rate",
    "answers.harm",
    "answers.mcnemar_p",
    "answers.worst_category_delta",
    "answers.worst_category_bound",
    "answers.same_output",
    "answers.first_divergence",
    "answers.format_valid",
    "answers.format_delta",
    "answers.json_valid",
    "answers.json_delta",
    "answers.schema_valid",
    "answers.schema_delta",
    "answers.stopped",
    "answers.stopped_ratio",
    "answers.empty",
    "answers.loops",
    "answers.loops_delta",
    "answers.wrong_script",
    "answers.refusals",
    "answers.refusals_delta",
    "answers.over_refusals",
    "answers.missed_refusals",
)


def reference_metrics(rows: pd.DataFrame, *, level: float = LEVEL) -> Metrics:
    """Say how well the reference itself answers."""
    return {
        "reference.right": share(
            rows["right"], "greedy answers of the FP32 ONNX model", level=level
        ),
        "reference.format_valid": share(
            rows["valid_format"], "answers in the asked format", level=level
        ),
        "reference.stopped": share(rows["stopped"], "answers that end by themselves", level=level),
    }


def answer_metrics(reference: pd.DataFrame, variant: pd.DataFrame, protocol: Protocol) -> Metrics:
    """Summarise a variant's answers against the reference's to the same questions, in order.

    Args:
        reference: the reference's `answers_frame`.
        variant: the variant's, made with that reference.
        protocol: for the level of all intervals, and the bootstrap.
    """
    level = protocol.level
    return {
        **_rightness(reference["right"], variant["right"], level),
        **_categories(category_frame(reference, variant, level=_jointly(variant, level))),
        **_sameness(reference, variant, protocol),
        **_format(reference, variant, level),
        **_endings(reference, variant, level),
        **_language(reference, variant, level),
    }


def _rightness(before: pd.Series[bool], after: pd.Series[bool], level: float) -> Metrics:
    was, now = before.to_numpy(bool), after.to_numpy(bool)
    lost, gained = int((was & ~now).sum()), int((now & ~was).sum())
    return {
        "answers.right": share(now, "greedy answers that meet their expectation", level=level),
        "answers.right_reference": share(was, "the same questions, FP32 ONNX model", level=level),
        "answers.delta": paired_change(
            was, now, "right answers, variant minus reference", level=level
        ),
        "answers.recovery": paired_ratio(
            was, now, "right answers, variant over reference", level=level
        ),
        "answers.flip_rate": share(
            was != now, "questions that change between right and wrong", level=level
        ),
        "answers.harm": share(was & ~now, "questions that change from right to wrong", level=level),
        "answers.mcnemar_p": _mcnemar(lost, gained, len(now)),
    }


def _mcnemar(lost: int, gained: int, n: int) -> Measurement:
    p = min(1.0, 2 * float(bdtr(min(lost, gained), lost + gained, 0.5)))
    how = f"exact McNemar test, two-sided, {lost} lost and {gained} gained; reported, never gated"
    return Measurement(value=p, n=n, method=how)


def _sameness(reference: pd.DataFrame, variant: pd.DataFrame, protocol: Protocol) -> Metrics:
    same = variant["first_div"].isna()
    lengths = np.maximum(reference["tokens"].map(len), variant["tokens"].map(len))
    kept = np.where(same, 1.0, variant["first_div"].fillna(0) / np.maximum(lengths, 1))
    interval = cluster_ratio(
        kept,
        np.ones(len(kept)),
        samples=protocol.bootstrap_samples,
        seed=protocol.seed,
        level=protocol.level,
    )
    return {
        "answers.same_output": share(same, "answers of equal tokens", level=protocol.level),
        "answers.first_divergence": with_interval(
            float(kept.mean()),
            interval,
            n=len(kept),
            method="part of an answer's tokens before the first that differs from the reference's, "
            "1 where none does, mean over questions; bootstrap over questions",
            clusters="question",
            final=True,
        ),
    }


def _format(reference: pd.DataFrame, variant: pd.DataFrame, level: float) -> Metrics:
    words = "answers in the asked format"
    before, after = reference["valid_format"], variant["valid_format"]
    return {
        "answers.format_valid": share(after, words, level=level),
        "answers.format_delta": paired_change(before, after, words, level=level),
        **_json("json", reference["json_ok"], variant["json_ok"], "answers that are JSON", level),
        **_json(
            "schema",
            reference["schema_ok"],
            variant["schema_ok"],
            "answers with the keys and types of their schema, or of the domain's right answers",
            level,
        ),
    }


def _json(
    name: str, before: pd.Series[bool], after: pd.Series[bool], words: str, level: float
) -> Metrics:
    names = (f"answers.{name}_valid", f"answers.{name}_delta")
    asked = after.notna()
    if not asked.any():
        return dict.fromkeys(names, not_applicable("no question asks for JSON"))
    was, now = before[asked].to_numpy(bool), after[asked].to_numpy(bool)
    how = f"unguided {words}, of those that ask for JSON"
    return {
        names[0]: share(now, how, level=level),
        names[1]: paired_change(was, now, how, level=level),
    }


def _endings(reference: pd.DataFrame, variant: pd.DataFrame, level: float) -> Metrics:
    words, cycle = "answers that end by themselves", "answers that end in a cycle of tokens"
    empty = int((variant["text"].str.strip() == "").sum())
    return {
        "answers.stopped": share(variant["stopped"], words, level=level),
        "answers.stopped_ratio": paired_ratio(
            reference["stopped"], variant["stopped"], words, level=level
        ),
        "answers.empty": count(empty, len(variant), "answers with nothing in them"),
        "answers.loops": share(variant["loop"], cycle, level=level),
        "answers.loops_delta": paired_change(
            reference["loop"], variant["loop"], cycle, level=level
        ),
    }


def _language(reference: pd.DataFrame, variant: pd.DataFrame, level: float) -> Metrics:
    was, now = reference["refusal"].to_numpy(bool), variant["refusal"].to_numpy(bool)
    words = "answers with a phrase of refusal"
    foreign = int((~variant["script_ok"]).sum())
    strange = "answers in a script that prompt, ideal answer and reference's answer do not have"
    return {
        "answers.wrong_script": count(foreign, len(variant), strange),
        "answers.refusals": share(now, words, level=level),
        "answers.refusals_delta": paired_change(was, now, words, level=level),
        "answers.over_refusals": share(
            now & ~was, f"{words}, the reference's has none", level=level
        ),
        "answers.missed_refusals": share(
            was & ~now, "no phrase of refusal, but in the reference's answer", level=level
        ),
    }


# ---------------------------------------------------------------- by category


def category_frame(
    reference: pd.DataFrame, variant: pd.DataFrame, *, level: float = LEVEL
) -> pd.DataFrame:
    """Give one row a category: n, right, delta, flips, harm and format, with their intervals.

    Columns: category, n; right, right_low, right_high (Wilson), right_reference; delta,
    delta_low, delta_high (Bonett-Price); flips and harm, as counts; format_valid,
    format_valid_low, format_valid_high (Wilson), format_reference.
    """
    paired = variant[["category", "right", "valid_format"]].assign(
        was=reference["right"].to_numpy(bool), format_was=reference["valid_format"].to_numpy(bool)
    )
    return pd.DataFrame(
        [
            {"category": str(category), "n": len(rows), **_category_row(rows, level)}
            for category, rows in paired.groupby("category", sort=True)
        ]
    )


def _category_row(rows: pd.DataFrame, level: float) -> dict[str, object]:
    was, now = rows["was"].to_numpy(bool), rows["right"].to_numpy(bool)
    n, gained, lost = len(now), int((now & ~was).sum()), int((was & ~now).sum())
    right_low, right_high = wilson(int(now.sum()), n, level=level)
    delta_low, delta_high = paired_difference(gained, lost, n, level=level)
    valid = int(rows["valid_format"].sum())
    format_low, format_high = wilson(valid, n, level=level)
    return {
        "right": now.mean(),
        "right_low": right_low,
        "right_high": right_high,
        "right_reference": was.mean(),
        "delta": now.mean() - was.mean(),
        "delta_low": delta_low,
        "delta_high": delta_high,
        "flips": gained + lost,
        "harm": lost,
        "format_valid": valid / n,
        "format_valid_low": format_low,
        "format_valid_high": format_high,
        "format_reference": rows["format_was"].mean(),
    }


def _jointly(variant: pd.DataFrame, level: float) -> float:
    """Give the level at which the intervals of all categories hold together (Bonferroni)."""
    return 1 - (1 - level) / variant["category"].nunique()


def _categories(frame: pd.DataFrame) -> Metrics:
    """Say how the category fared that is most surely worse than the reference.

    Categories are small: that a loss of ten points is ruled out in each of them takes some 150
    questions in every one, so a gate that asked for it would be INCONCLUSIVE for ever. The bound
    is what no category is proven to be below: a gate on it fails when, and only when, one of them
    is proven worse. A PASS there does not say that every category is fine.
    """
    worst = frame.iloc[int(frame["delta_high"].to_numpy().argmin())]
    about = (
        f"{worst['category']!r}, of {len(frame)} categories the one most surely worse; paired, "
        f"Bonett-Price interval, Bonferroni over categories"
    )
    n = int(worst["n"])
    return {
        "answers.worst_category_delta": Measurement(
            value=float(worst["delta"]),
            ci95=(float(worst["delta_low"]), float(worst["delta_high"])),
            n=n,
            method=f"right answers, variant minus reference, in {about}",
        ),
        "answers.worst_category_bound": Measurement(
            value=float(worst["delta_high"]),
            n=n,
            method=f"upper end of the change of right answers in {about}; below it is proven worse",
        ),
    }
