"""What a soak is asked for, and what can be said about it before anything is spent.

Imports neither Prefect nor a tool, so that the command refuses bad input at once.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from flows.form import Form, OptionalPath, OptionalText, optional, placed
from flows.inventory import history
from tasks.core.errors import InputError, PolicyRefused
from tasks.core.records import Checkpoint, ExaminationProfile, Severity, Variant
from tasks.core.settings import Settings
from tasks.examine.protocol import Protocol
from tasks.foundry.ledger import Champion, champion_of, names
from tasks.judge.policy import Policy, load_policy
from tasks.report.load import load_run
from tasks.report.soak_run import FILE as SOAK_FILE

log = logging.getLogger(__name__)

# What a soak measures: everything else was judged when the champion was released.
MEASURED = ("soak.", "foundry.reload")


class SoakRequest(Form):
    """One soak of the champion of a name."""

    name: OptionalText = optional(
        "Name",
        "Name in Foundry Local, one of `ingot list`. Empty: the champion that was soaked longest "
        "ago.",
    )
    examination: ExaminationProfile = Field(
        default=ExaminationProfile.FULL,
        title="Length",
        description="smoke (300 generations after the warm-up, minutes), standard (1,000) or full "
        "(10,000, hours).",
    )
    policy: OptionalPath = optional(
        "Policy file", "Limits that differ from Ingot's own, TOML. `ingot policy` shows them all."
    )


@dataclass(frozen=True)
class SoakOrder:
    """A request whose champion and policy could be read.

    Attributes:
        variant, checkpoint: of the champion, as the run that released it says.
        policy: the gates on what a soak measures, and no other.
    """

    name: str
    champion: Champion
    variant: Variant
    checkpoint: Checkpoint
    protocol: Protocol
    policy: Policy

    @property
    def in_one_line(self) -> str:
        """Say what will be soaked, and for how long."""
        plan = self.protocol.soak
        return (
            f"{self.champion.model_id}, {plan.generations:,} generations after {plan.warmup:,} of "
            f"warm-up, {self.protocol.load_cycles} loads in Foundry Local"
        )


def check_soak(request: SoakRequest) -> SoakOrder:
    """Read the champion's record, the run that released it, and the policy.

    Raises:
        InputError: nothing is registered under that name, or the evidence of its run is gone.
        PolicyRefused: the policy is wrong, or asks nothing that a soak measures.
    """
    settings = Settings()
    name = request.name or soaked_longest_ago(settings) or ""
    history(name)  # refuses a name that has no champion
    champion = champion_of(settings, name)
    assert champion is not None
    variant, checkpoint = released(champion, settings)
    policy = placed(request.policy, "the policy file") if request.policy else None
    return SoakOrder(
        name=name,
        champion=champion,
        variant=variant,
        checkpoint=checkpoint,
        protocol=Protocol.of(request.examination),
        policy=soak_policy(load_policy(policy)),
    )


def soaked_longest_ago(settings: Settings) -> str | None:
    """Give the name whose champion was never soaked, or longest ago; None without champions.

    However that soak ended: one that cannot be finished shall not keep the others waiting.
    """
    last: dict[str, str] = {}
    for file in sorted(settings.runs.glob(f"*/{SOAK_FILE}")):
        try:
            soaked = _Soaked.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as problem:
            log.warning("%s cannot be read and does not count: %s", file, problem)
            continue
        last[soaked.variant] = max(soaked.run_id, last.get(soaked.variant, ""))
    champions = {name: champion_of(settings, name) for name in names(settings)}
    when = {name: last.get(one.variant, "") for name, one in champions.items() if one is not None}
    return min(when, key=lambda name: (when[name], name), default=None)


def released(champion: Champion, settings: Settings) -> tuple[Variant, Checkpoint]:
    """Give the records of a champion's variant and checkpoint from the run that released it.

    Raises:
        InputError: that run's folder is gone, damaged, or knows nothing of this variant.
    """
    folder = settings.runs / champion.run_id
    try:
        release = load_run(folder).release
    except InputError as problem:
        raise _unknown(champion, folder, problem.message) from problem
    variant = next((one for one in release.variants if one.digest == champion.variant), None)
    if variant is None:
        raise _unknown(champion, folder, "a run that built other variants")
    return variant, release.checkpoint


def soak_policy(policy: Policy) -> Policy:
    """Give a policy without the gates on what no soak measures.

    Raises:
        PolicyRefused: no blocking gate is left, so that whatever leaks would pass.
    """
    gates = [gate for gate in policy.enabled_gates if gate.metric.startswith(MEASURED)]
    if not any(gate.severity is Severity.BLOCK for gate in gates):
        raise PolicyRefused(
            "the policy has no blocking gate on what a soak measures",
            expected="a gate on soak.heap_growth_bytes or soak.anon_growth_bytes",
            next_step="switch one on: a soak that nothing can fail proves nothing",
        )
    return policy.model_copy(update={"gates": gates})


class _Soaked(BaseModel):
    """As much of soak.json as tells what was soaked when: run ids begin with the time."""

    run_id: str
    variant: str


def _unknown(champion: Champion, folder: Path, got: str) -> InputError:
    return InputError(
        f"what {champion.model_id} was built as is not known any more",
        expected=f"the run that released it, in {folder}",
        got=got,
        next_step="release the checkpoint again: the same bytes keep their id",
    )
