"""The child of `measure.py`: starts one worker a variant and runs them in rounds.

One worker computes at a time, the others sit idle in memory. Where they do not fit side by side,
each is started by itself, and rounds are paired by their number only.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import TypeVar

import pandas as pd

from tasks.core.progress import report_progress
from tasks.examine.protocol import Scenario
from tasks.examine.speed.energy import EnergyMeter
from tasks.examine.speed.fit import latency_frame
from tasks.examine.speed.lanes import Lane, Row, Worker, fit_side_by_side, workers_of
from tasks.examine.speed.loading import drop_from_page_cache
from tasks.examine.speed.machine import Weather, during
from tasks.examine.speed.measure import SpeedEvidence, SpeedRequest, TimedVariant
from tasks.examine.speed.metrics import speed_evidence
from tasks.examine.speed.rows import (
    CHAMPION,
    CONTROL,
    FRESH,
    LENGTH,
    RUN,
    SIDE_BY_SIDE,
    WARM,
    Timed,
)
from tasks.examine.speed.workload import (
    LENGTH_REPEATS,
    FolderFacts,
    affordable_lengths,
    expected_s,
    fits_budget,
    lengths_of,
    prompt_of,
    scenarios_of,
)

Item = TypeVar("Item")

# In the first launches the processes that show how loading goes show their memory too: with a KV
# cache of just what is used, then with the room that the folder asks for.
_NARROW, _WIDE = 0, 1


def examine(request: SpeedRequest) -> SpeedEvidence:
    """Time all variants and summarise each."""
    timing = Timing(request, EnergyMeter())
    timing.measure()
    timed = timing.timed()
    for name in ("samples", "launches", "latency"):
        getattr(timed, name).to_parquet(request.frames / f"{name}.parquet")
    return SpeedEvidence(
        evidence=[speed_evidence(lane, timed, request.protocol) for lane in timed.lanes]
    )


class Timing:
    """The schedule: launches, warm-ups, interleaved rounds, within a budget of time."""

    def __init__(self, request: SpeedRequest, meter: EnergyMeter) -> None:
        self._plan, seed = request.protocol.timing, request.protocol.seed
        self._seed, self._random = seed, random.Random(seed)  # noqa: S311  (an order of runs)
        self._meter = meter
        self._idle_w: float | None = None
        self._started = time.monotonic()
        self._samples: list[Row] = []
        self._launches: list[Row] = []
        self._notes: list[str] = []
        self._examined = [_lane(variant) for variant in request.variants]
        self._lanes, self._champion = _all_lanes(self._examined, request)
        self._facts = {lane.name: FolderFacts.of(lane.folder) for lane in self._lanes}
        context = min(facts.context_length for facts in self._facts.values())
        self._vocabulary = min(facts.vocabulary_size for facts in self._facts.values())
        self._scenarios, self._unfit = scenarios_of(self._plan, context)
        self._lengths = lengths_of(self._plan, context)
        self._chosen = False  # once, in the first warm-up

    def measure(self) -> None:
        """Run launches until the plan is done, or the time is spent and the least is done."""
        plan, side_by_side = self._plan, fit_side_by_side(self._lanes)
        self._measure_rest()
        least_s = 0.0
        for launch in range(plan.launches):
            if launch >= plan.least_launches and self._spent() + least_s > plan.budget_s:
                return
            started = self._spent()
            self._start_afresh(launch)
            blocks = [self._shuffled(self._lanes)]
            if not side_by_side:
                blocks = [[lane] for lane in blocks[0]]
            rounds_s = 0.0
            for number, block in enumerate(blocks, start=1):
                share = (launch + number / len(blocks)) / plan.launches
                rounds_s += self._run_block(launch, block, ends_s=plan.budget_s * share)
            least_s = self._spent() - started - rounds_s

    def timed(self) -> Timed:
        """Give what was measured."""
        numbers = dict.fromkeys(("threads", "tpot_s", "energy_j"), "float64")  # None is NaN
        samples = pd.DataFrame(self._samples).astype(numbers)
        examined = [lane.name for lane in self._examined]
        return Timed(
            lanes=examined,
            champion=self._champion,
            headline=self._scenarios[0].name,
            scenarios=[scenario.name for scenario in self._scenarios],
            unfit=[scenario.name for scenario in self._unfit],
            samples=samples,
            launches=pd.DataFrame(self._launches),
            latency=latency_frame(samples, examined),
            idle_w=self._idle_w,
            no_energy=self._meter.reason,
            notes=self._notes,
        )

    def _measure_rest(self) -> None:
        if not self._meter.reason:
            report_progress(f"power at rest, {self._plan.idle_s:.0f} s")
            self._idle_w = self._meter.idle_w(self._plan.idle_s)

    def _start_afresh(self, launch: int) -> None:
        """Start each variant alone, its files out of the page cache: loading, then memory."""
        for lane in self._shuffled(self._examined):
            stayed = drop_from_page_cache(lane.folder)
            with workers_of([lane]) as [worker]:
                found = self._memory_of(worker, launch)
            self._note_launch(worker, launch, FRESH, page_cache=stayed, **found)

    def _memory_of(self, worker: Worker, launch: int) -> Row:
        scenario = self._scenarios[0]
        used = scenario.prompt_tokens + scenario.new_tokens
        room = {_NARROW: used, _WIDE: max(used, self._facts[worker.lane.name].max_length)}
        if launch not in room:
            return {}
        prompt = self._prompt(scenario.prompt_tokens)
        run = worker.run(prompt, scenario.new_tokens, max_length=room[launch], reset_peak=True)
        kept = ("hwm_b", "rss_b", "anon_b", "file_b", "peak_was_reset")
        return {
            "n_in": scenario.prompt_tokens,
            "n_out": scenario.new_tokens,
            "max_length": room[launch],
            **{name: run[name] for name in kept},
        }

    def _note_launch(self, worker: Worker, launch: int, start: str, **found: object) -> None:
        self._launches.append(
            {
                "lane": worker.lane.name,
                "digest": worker.lane.digest,
                "launch": launch,
                "start": start,
                "start_s": worker.start_s,
                **worker.ready,
                **found,
            }
        )

    def _run_block(self, launch: int, lanes: Sequence[Lane], ends_s: float) -> float:
        """Start workers, warm them up, and run rounds until this block's time is spent.

        Returns:
            Seconds of the rounds beyond the least number of them.
        """
        plan, last_s, beyond_s = self._plan, 0.0, 0.0
        with workers_of(lanes) as workers:
            for worker in workers:
                self._note_launch(worker, launch, SIDE_BY_SIDE)
            self._warm_up(launch, workers)
            self._run_lengths(launch, workers)
            for number in range(plan.rounds):
                if number >= plan.least_rounds and self._spent() + last_s > ends_s:
                    break
                report_progress(
                    f"speed, launch {launch + 1}/{plan.launches}, round {number + 1}/{plan.rounds}"
                )
                started = self._spent()
                for scenario in self._shuffled(self._scenarios):
                    self._run_all(self._shuffled(workers), scenario, launch, number, RUN)
                last_s = self._spent() - started
                beyond_s += last_s if number >= plan.least_rounds else 0.0
        return beyond_s

    def _warm_up(self, launch: int, workers: Sequence[Worker]) -> None:
        """Run every scenario once, and the headline as often as the plan asks.

        In the first of them the scenarios that would be too dear are dropped, by the rates of
        those before, and so are the longest of the lengths.
        """
        if not self._plan.warmups:
            return
        round_s = 0.0
        kept: list[Scenario] = []
        runs: list[Row] = []
        for scenario in self._scenarios:
            if not self._chosen and kept and not self._affordable(scenario, runs, round_s):
                break
            runs = self._run_all(workers, scenario, launch, -self._plan.warmups, WARM)
            round_s += self._over_all_lanes(runs, [run["e2e_s"] for run in runs])
            kept.append(scenario)
        if not self._chosen:
            self._choose(kept, runs)
        for number in range(1, self._plan.warmups):
            self._run_all(workers, self._scenarios[0], launch, -number, WARM)

    def _affordable(self, scenario: Scenario, runs: Sequence[Row], round_s: float) -> bool:
        sizes = scenario.prompt_tokens, scenario.new_tokens
        more_s = self._over_all_lanes(runs, [expected_s(run, *sizes) for run in runs])
        return fits_budget(round_s + more_s, self._plan)

    def _over_all_lanes(self, runs: Sequence[Row], seconds: Sequence[float]) -> float:
        """Add the seconds of some lanes up, as many times as it takes for all lanes."""
        return sum(seconds) * len(self._lanes) / len(runs)

    def _choose(self, kept: list[Scenario], runs: Sequence[Row]) -> None:
        dropped = [found.name for found in self._scenarios if found not in kept]
        lengths = affordable_lengths(self._lengths, runs, len(self._examined), self._plan)
        if dropped:
            self._notes.append(f"too dear for the budget, not timed: {', '.join(dropped)}")
        if longer := [length for length in self._lengths if length not in lengths]:
            self._notes.append(f"too dear for the budget: prompts of {longer[0]} tokens and more")
        self._scenarios, self._lengths, self._chosen = kept, lengths, True

    def _run_lengths(self, launch: int, workers: Sequence[Worker]) -> None:
        """Time the first token after prompts of every length; the first pass warms up."""
        names = {lane.name for lane in self._examined}
        examined = [worker for worker in workers if worker.lane.name in names]
        for repeat in range(LENGTH_REPEATS):
            for length in self._lengths:
                scenario = Scenario.model_construct(
                    name=f"length-{length}", prompt_tokens=length, new_tokens=1
                )
                phase = LENGTH if repeat else WARM
                self._run_all(self._shuffled(examined), scenario, launch, repeat, phase)

    def _run_all(
        self,
        workers: Sequence[Worker],
        scenario: Scenario,
        launch: int,
        number: int,
        phase: str,
    ) -> list[Row]:
        """Run one scenario in all workers, one after the other; gives their rows."""
        rows = []
        for order, worker in enumerate(workers):
            place = {"launch": launch, "round": number, "order": order, "phase": phase}
            rows.append(self._run(worker, scenario, place))
        self._samples += rows
        return rows

    def _run(self, worker: Worker, scenario: Scenario, place: Row) -> Row:
        prompt = self._prompt(scenario.prompt_tokens)
        weather = Weather.now()
        energy, began = self._meter.read(), time.monotonic()
        run = worker.run(prompt, scenario.new_tokens)
        joules, energy_s = self._meter.joules(energy, self._meter.read()), time.monotonic() - began
        del run["peak_was_reset"]
        cores = (run["cpu_ttft_s"] + run["cpu_decode_s"]) / run["e2e_s"]
        steps = scenario.new_tokens - 1
        return {
            "lane": worker.lane.name,
            "digest": worker.lane.digest,
            "case_id": scenario.name,
            **place,
            "n_in": scenario.prompt_tokens,
            "n_out": scenario.new_tokens,
            "max_length": scenario.prompt_tokens + scenario.new_tokens,
            "threads": self._facts[worker.lane.name].session_options.get("intra_op_num_threads"),
            "tpot_s": run["decode_s"] / steps if steps else None,
            "energy_j": joules,
            "energy_s": energy_s,
            **during(weather, Weather.now(), cores),
            **run,
        }

    def _prompt(self, tokens: int) -> list[int]:
        return prompt_of(tokens, self._vocabulary, self._seed)

    def _spent(self) -> float:
        return time.monotonic() - self._started

    def _shuffled(self, items: Sequence[Item]) -> list[Item]:
        return self._random.sample(items, len(items))


def _lane(variant: TimedVariant, name: str = "") -> Lane:
    return Lane(
        name=name or variant.precision.value,
        digest=variant.digest,
        folder=variant.folder,
        size_bytes=variant.size_bytes,
    )


def _all_lanes(examined: list[Lane], request: SpeedRequest) -> tuple[list[Lane], str | None]:
    """Give the lanes of the rounds, and the name of the champion's, if there is one.

    The control has the first variant's weights. A champion that is examined itself needs no
    second lane.
    """
    lanes = [*examined, _lane(request.variants[0], CONTROL)]
    if request.champion is None:
        return lanes, None
    for lane in examined:
        if lane.digest == request.champion.digest:
            return lanes, lane.name
    return [*lanes, _lane(request.champion, CHAMPION)], CHAMPION
