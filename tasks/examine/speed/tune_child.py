"""The child of `tune.py`: times one variant under several settings, against itself as built.

First all settings in one launch, to find the fastest; then that one alone against the variant as
built, in launches of its own: the fastest of many in the same rounds would look faster than it is.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.core.fairness import SAME_WITHIN
from tasks.core.progress import report_progress
from tasks.core.records import Measurement
from tasks.examine.metrics import not_applicable, not_measured
from tasks.examine.protocol import CHAT, Protocol, Scenario
from tasks.examine.speed.lanes import Lane, Row, Worker, fit_side_by_side, workers_of
from tasks.examine.speed.machine import Weather, during
from tasks.examine.speed.measure import TimedVariant
from tasks.examine.speed.ratios import ratio_of_logs
from tasks.examine.speed.tune import (
    SPINNING,
    THREADS,
    Choice,
    Choices,
    Proof,
    ProofRequest,
    Setting,
    TuneRequest,
)
from tasks.examine.speed.workload import FolderFacts, prompt_of

AS_BUILT = "as built"
_SCREEN, _CONFIRM = "screen", "confirm"
_SCREEN_SHARE = 0.5  # of a variant's budget, at most
_CONTENDED_SHARE = 0.5
_PROOF = Scenario(name="proof", prompt_tokens=16, new_tokens=4)


@dataclass(frozen=True)
class Swept:
    """What a sweep came to, before it is judged.

    Attributes:
        best: the fastest candidate, timed alone against the variant as built; or None and why.
        rows: a row a run.
    """

    best: Setting | None
    rows: pd.DataFrame
    reason: str = ""


def sweep(request: TuneRequest) -> Choices:
    """Sweep one variant after the other, each within its part of what is left of the budget."""
    started, plan = time.monotonic(), request.protocol.timing
    choices, rows = [], []
    for number, variant in enumerate(request.variants):
        left_s = plan.tune_budget_s - (time.monotonic() - started)
        share_s = left_s / (len(request.variants) - number)
        swept = _Sweep(variant, request.candidates, request.protocol, share_s).run()
        rows.append(swept.rows)
        choices.append(choice_of(variant.digest, swept, request.protocol))
    pd.concat(rows).to_parquet(request.frames / "tuning.parquet")
    return Choices(choices=choices)


def prove(request: ProofRequest) -> Proof:
    """Load a folder and make some tokens, in a process of its own.

    Raises:
        VariantUnusable: it does not load or decode.
    """
    facts = FolderFacts.of(request.folder)
    lane = Lane("the tuned variant", request.digest, request.folder)
    with workers_of([lane]) as [worker]:
        worker.run(prompt_of(_PROOF.prompt_tokens, facts.vocabulary_size, 0), _PROOF.new_tokens)
        return Proof(start_s=worker.start_s)


def choice_of(digest: str, swept: Swept, protocol: Protocol) -> Choice:
    """Judge a sweep by the launches in which only the best setting ran against that as built."""
    contended = is_busy(swept.rows)
    if contended:
        notes = ["the machine was busy: threads and spinning are kept as built"]
        gain = not_measured("what a busy machine prefers is no setting for a device")
    elif swept.best is None:
        notes, gain = [swept.reason], not_applicable(swept.reason)
    else:
        notes, gain = [], _gain(swept.best, swept.rows, protocol)
    taken = gain.ci95 is not None and gain.ci95[1] < 1 - SAME_WITHIN
    if taken and swept.best is not None:
        notes = [f"{swept.best.in_words()}, not as built: time x {gain.value:.2f}"]
    return Choice(
        digest=digest, best=swept.best, gain=gain, taken=taken, contended=contended, notes=notes
    )


def is_busy(rows: pd.DataFrame) -> bool:
    """Tell whether half of the runs had to share their processors.

    Then more threads look faster, because each of them gets a part: two were 2.3 times as fast as
    one beside other busy processes (demo checkpoint, 2 cores, 2026-11).
    """
    return not rows.empty and float(rows["contended"].mean()) >= _CONTENDED_SHARE


def _gain(best: Setting, rows: pd.DataFrame, protocol: Protocol) -> Measurement:
    """Give the time under one setting over that as built, round by round."""
    runs = rows[(rows["stage"] == _CONFIRM) & (rows["round"] >= 0)]
    keys = ["launch", "round"]
    table = runs.pivot_table(index=keys, columns="setting", values="e2e_s").dropna()
    ratios = table[best.in_words()] / table[AS_BUILT]
    method = (
        f"e2e_s of {best.in_words()} over that as built, {CHAT.name}: median ratio of a round; "
        "bootstrap over launches and rounds; chosen in another launch"
    )
    return ratio_of_logs(ratios.map(math.log), protocol, method)


class _Sweep:
    """One variant's sweep, within its seconds."""

    def __init__(
        self,
        variant: TimedVariant,
        candidates: Sequence[Setting],
        protocol: Protocol,
        budget_s: float,
    ) -> None:
        self._variant, self._plan = variant, protocol.timing
        self._budget_s, self._started = budget_s, time.monotonic()
        self._random = random.Random(protocol.seed)  # noqa: S311  (an order of runs)
        facts = FolderFacts.of(variant.folder)
        self._candidates = [
            setting
            for setting in candidates
            if not setting.session_options().items() <= facts.session_options.items()
        ]
        half = facts.context_length // 2
        self._new_tokens = min(CHAT.new_tokens, half)
        self._prompt = prompt_of(
            min(CHAT.prompt_tokens, half), facts.vocabulary_size, protocol.seed
        )
        self._rows: list[Row] = []

    def run(self) -> Swept:
        """Screen, then confirm; what does not fit into memory or budget is not begun."""
        lanes = [self._lane(None), *map(self._lane, self._candidates)]
        if not self._candidates:
            return self._found(None, "there is no setting but that as built")
        if not fit_side_by_side(lanes):
            return self._found(None, f"{len(lanes)} copies of the model do not fit into memory")
        if not self._launch(lanes, _SCREEN, 0, until_s=_SCREEN_SHARE * self._budget_s):
            return self._found(None, "too slow for the budget to sweep")
        if is_busy(pd.DataFrame(self._rows)):
            return self._found(None, "the machine was busy")
        best = self._fastest()
        plan = self._plan
        for launch in range(plan.launches):
            until_s = self._budget_s * (
                _SCREEN_SHARE + (1 - _SCREEN_SHARE) * (launch + 1) / plan.launches
            )
            started = self._spent()
            pair = [self._lane(None), self._lane(best)]
            if not self._launch(pair, _CONFIRM, launch, until_s=until_s):
                enough = launch >= plan.least_launches
                return self._found(best if enough else None, "too slow for the budget to confirm")
            cost_s = self._spent() - started
            if launch + 1 >= plan.least_launches and self._spent() + cost_s > self._budget_s:
                break
        return self._found(best)

    def _lane(self, setting: Setting | None) -> Lane:
        return Lane(
            name=setting.in_words() if setting else AS_BUILT,
            digest=self._variant.digest,
            folder=self._variant.folder,
            session_options=setting.session_options() if setting else {},
            size_bytes=self._variant.size_bytes,
        )

    def _launch(self, lanes: Sequence[Lane], stage: str, launch: int, *, until_s: float) -> bool:
        """Run rounds of all lanes; tells whether the least number of them was within the budget."""
        report_progress(f"threads and spinning of {self._variant.precision}, {stage}")
        with workers_of(lanes) as workers:
            started = self._spent()
            for worker in workers:
                self._run(worker, stage, launch, -1)  # a warm-up
            round_s = self._spent() - started
            if self._spent() + round_s * self._plan.least_rounds > self._budget_s:
                return False
            for number in range(self._plan.rounds):
                if number >= self._plan.least_rounds and self._spent() + round_s > until_s:
                    break
                for worker in self._random.sample(workers, len(workers)):
                    self._run(worker, stage, launch, number)
        return True

    def _run(self, worker: Worker, stage: str, launch: int, number: int) -> None:
        weather = Weather.now()
        run = worker.run(self._prompt, self._new_tokens)
        cpu_s = run["cpu_ttft_s"] + run["cpu_decode_s"]
        self._rows.append(
            {
                "digest": worker.lane.digest,
                "setting": worker.lane.name,
                "threads": worker.lane.session_options.get(THREADS),
                "spinning": worker.lane.session_options.get(SPINNING),
                "stage": stage,
                "launch": launch,
                "round": number,
                "n_in": len(self._prompt),
                "n_out": self._new_tokens,
                **{name: run[name] for name in ("ttft_s", "decode_s", "e2e_s")},
                "cpu_s": cpu_s,
                **during(weather, Weather.now(), cpu_s / run["e2e_s"]),
            }
        )

    def _fastest(self) -> Setting:
        rows = pd.DataFrame(self._rows)
        medians = rows[rows["round"] >= 0].groupby("setting")["e2e_s"].median()
        return min(self._candidates, key=lambda setting: medians[setting.in_words()])

    def _found(self, best: Setting | None, reason: str = "") -> Swept:
        return Swept(best, pd.DataFrame(self._rows), reason)

    def _spent(self) -> float:
        return time.monotonic() - self._started
