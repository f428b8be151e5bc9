"""The default policy, and measurements that pass all of it, for the tests of the judge."""

from __future__ import annotations

from tasks.core.records import Measurement
from tasks.judge.policy import load_policy
from tests.golden.sample_release import healthy_metrics

POLICY = load_policy()

ABSOLUTE = [gate for gate in POLICY.gates if gate.limit]
RELATIVE = [gate for gate in POLICY.gates if gate.champion_factor or gate.champion_margin]


def healthy() -> dict[str, Measurement]:
    """Give measurements that pass every gate, at any precision: the sample release's, else the
    tightest limit itself.
    """
    limits: dict[str, list[float]] = {}
    for gate in POLICY.gates:
        found = [*gate.limit.values(), *gate.champion_limit.values()]
        limits.setdefault(gate.metric, []).extend(found)
    at_most = {gate.metric: gate.operator == "<=" for gate in POLICY.gates}
    known = {name: found for name, found in healthy_metrics().items() if found.applies}
    return {
        metric: Measurement(value=min(found) if at_most[metric] else max(found))
        for metric, found in limits.items()
        if found
    } | known
