"""A policy file changes what it names, and nothing it says is misread or overlooked."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest

from tasks.core.errors import PolicyRefused
from tasks.core.records import SHIPPABLE, GateVerdict, Measurement, Precision, Severity
from tasks.core.statistics import paired_difference, wilson
from tasks.examine import fidelity
from tasks.judge.judge import judge_gate
from tasks.judge.policy import DEFAULT_POLICY, Gate, Policy, load_policy, policy_digest
from tests.judged import POLICY

TASKS = DEFAULT_POLICY.parents[1]
BIG, MIDDLE, SMALL = 7_000_000_000, 3_000_000_000, 500_000_000


def policy_of(folder: Path, text: str) -> Policy:
    file = folder / "policy.toml"
    file.write_text(text, encoding="utf-8")
    return load_policy(file)


def gate(policy: Policy, name: str) -> Gate:
    return next(gate for gate in policy.gates if gate.name == name)


def test_default_policy_has_a_finite_limit_for_every_precision() -> None:
    for each in POLICY.gates:
        kinds = [each.limit, each.champion_factor, each.champion_margin, each.champion_limit]
        assert [list(kind) for kind in kinds if kind] == [list(SHIPPABLE)], each.name
        assert each.why, each.name


def test_default_policy_gates_every_examination() -> None:
    gated = {each.metric.split(".")[0] for each in POLICY.enabled_gates}
    measured = {name.split(".")[0] for name in POLICY.metrics}
    # Absolute speed, memory and energy are yours to limit; tuning chooses, it does not judge.
    assert measured - gated <= {"speed", "memory", "energy", "tune"}


def test_empty_file_is_the_default_policy(tmp_path: Path) -> None:
    assert policy_digest(policy_of(tmp_path, "")) == policy_digest(POLICY)


def test_file_changes_one_field_and_keeps_the_rest(tmp_path: Path) -> None:
    changed = gate(policy_of(tmp_path, '[gates.kld_p99]\nseverity = "block"'), "kld_p99")
    default = gate(POLICY, "kld_p99")
    assert changed == default.model_copy(
        update={"severity": Severity.BLOCK, "inconclusive": Severity.BLOCK}
    )


def test_file_changes_the_limit_of_one_precision(tmp_path: Path) -> None:
    changed = gate(policy_of(tmp_path, "[gates.flip_rate]\nlimit = { int4 = 0.2 }"), "flip_rate")
    assert changed.limit == {Precision.INT4: 0.2, Precision.INT8: 0.05, Precision.FP16: 0.02}


def test_one_number_is_the_limit_of_every_precision(tmp_path: Path) -> None:
    changed = gate(policy_of(tmp_path, "[gates.flip_rate]\nlimit = 0"), "flip_rate")
    assert set(changed.limit.values()) == {0.0}


def test_small_models_have_their_own_int4_limit() -> None:
    kld_mean = gate(POLICY, "kld_mean")
    limits = [kld_mean.limit_for(Precision.INT4, size) for size in (BIG, MIDDLE, SMALL)]
    assert limits == [0.08, 0.12, 0.20]
    assert {kld_mean.limit_for(Precision.INT8, size) for size in (BIG, MIDDLE, SMALL)} == {0.01}


def test_a_tightened_limit_is_not_loosened_by_the_default_for_small_models(tmp_path: Path) -> None:
    changed = gate(policy_of(tmp_path, "[gates.kld_mean]\nlimit = 0.05"), "kld_mean")
    assert {changed.limit_for(Precision.INT4, size) for size in (BIG, MIDDLE, SMALL)} == {0.05}


def test_a_tightened_size_class_is_not_loosened_by_a_smaller_one(tmp_path: Path) -> None:
    text = "[gates.kld_mean]\nlimit_below_4b = { int4 = 0.05 }"
    changed = gate(policy_of(tmp_path, text), "kld_mean")
    limits = [changed.limit_for(Precision.INT4, size) for size in (BIG, MIDDLE, SMALL)]
    assert limits == [0.08, 0.05, 0.05]


def test_smallest_size_class_can_be_changed_alone(tmp_path: Path) -> None:
    text = "[gates.kld_mean]\nlimit_below_1b = { int4 = 0.3 }"
    changed = gate(policy_of(tmp_path, text), "kld_mean")
    limits = [changed.limit_for(Precision.INT4, size) for size in (BIG, MIDDLE, SMALL)]
    assert limits == [0.08, 0.12, 0.3]


def test_small_model_limit_of_an_untouched_precision_stays(tmp_path: Path) -> None:
    changed = gate(policy_of(tmp_path, "[gates.kld_mean]\nlimit = { int8 = 0.005 }"), "kld_mean")
    assert changed.limit_for(Precision.INT4, SMALL) == 0.20


def test_file_switches_a_gate_off_and_the_policy_remembers(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, "[gates.ppl_ratio]\nenabled = false")
    assert policy.switched_off == ["ppl_ratio"]
    assert "ppl_ratio" not in {each.name for each in policy.enabled_gates}


def test_file_adds_a_blocking_gate(tmp_path: Path) -> None:
    text = '[gates.ram]\nmetric = "memory.peak_rss_bytes"\noperator = "<="\nlimit = 1_000'
    added = gate(policy_of(tmp_path, text), "ram")
    assert (added.severity, added.enabled, added.limit[Precision.FP16]) == ("block", True, 1000.0)


def test_budgets_shown_in_the_default_file_work_as_shown(tmp_path: Path) -> None:
    lines = DEFAULT_POLICY.read_text(encoding="utf-8").splitlines()
    shown = "\n".join(line[3:] for line in lines if line.startswith("#| "))
    policy = policy_of(tmp_path, shown)
    assert len(policy.gates) == len(POLICY.gates) + 3
    assert gate(policy, "first_token_budget").severity is Severity.WARN


def test_changes_shown_at_the_top_of_the_default_file_work_as_shown(tmp_path: Path) -> None:
    text = DEFAULT_POLICY.read_text(encoding="utf-8")
    shown = "\n".join(re.findall(r"(?m)^# {5}(\S.*)$", text))
    policy = policy_of(tmp_path, shown)
    assert policy.switched_off == ["ppl_ratio"]
    assert gate(policy, "memory_budget").limit[Precision.INT8] == 1.5e9
    assert gate(policy, "kld_mean").limit[Precision.INT4] == 0.05


def test_file_changes_how_far_the_champion_may_be_left_behind(tmp_path: Path) -> None:
    text = "[gates.kld_to_champion]\nchampion_factor = { int4 = 2 }"
    changed = gate(policy_of(tmp_path, text), "kld_to_champion")
    assert changed.limit_from(Precision.INT4, (0.1, 0.2)) == pytest.approx(0.4)
    assert changed.limit_from(Precision.INT8, (0.1, 0.2)) == pytest.approx(0.25)


@pytest.mark.parametrize(("operator", "factor"), [(">=", 0.9), ("<=", 1.1)])
def test_factor_of_a_negative_value_passes_an_equal_model_too(
    tmp_path: Path, operator: str, factor: float
) -> None:
    text = f'[gates.x]\nmetric = "answers.delta"\noperator = "{operator}"\n'
    added = gate(policy_of(tmp_path, f"{text}champion_factor = {factor}"), "x")
    limit = added.limit_from(Precision.INT4, (-0.2, -0.1))
    equal = Measurement(value=-0.15, ci95=(-0.2, -0.1))
    assert judge_gate(added, equal, limit).verdict is GateVerdict.PASS


def test_file_adds_a_gate_against_the_champion(tmp_path: Path) -> None:
    text = (
        '[gates.flips_to_champion]\nmetric = "answers.flip_rate"\noperator = "<="\n'
        'champion_margin = 0.01\ninconclusive = "warn"'
    )
    added = gate(policy_of(tmp_path, text), "flips_to_champion")
    assert added.asks_champion
    assert (added.severity, added.inconclusive) == (Severity.BLOCK, Severity.WARN)


def test_undecided_gate_is_as_severe_as_a_failed_one_unless_said_otherwise(tmp_path: Path) -> None:
    policy = policy_of(
        tmp_path, '[gates.kld_mean]\ninconclusive = "warn"\n[gates.recovery]\nseverity = "warn"'
    )
    assert gate(policy, "kld_mean").inconclusive is Severity.WARN
    assert gate(policy, "recovery").inconclusive is Severity.WARN
    assert gate(policy, "flip_rate").inconclusive is Severity.BLOCK


REFUSED = {
    "unknown table": ("[gatez.flip_rate]\nlimit = 1", "gatez", "write gates"),
    "unknown field": ("[gates.flip_rate]\nlimt = 1", "gates.flip_rate.limt", "write limit"),
    "unknown precision": ("[gates.flip_rate]\nlimit = { int5 = 1 }", "int5", "write int"),
    "reference precision": ("[gates.flip_rate]\nlimit = { fp32 = 1 }", "fp32", "int4, int8, fp16"),
    "misspelt gate": ("[gates.flip_rat]\nlimit = 0.1", "gates.flip_rat ", "write flip_rate"),
    "gate's name": ('[gates."Flip rate"]\nlimit = 0.1', "Flip rate", "lower case"),
    "boolean limit": ("[gates.flip_rate]\nlimit = true", "gates.flip_rate.limit", "one number"),
    "limit as text": ('[gates.flip_rate]\nlimit = "0.1"', "gates.flip_rate.limit", "one number"),
    "text in limits": ('[gates.flip_rate]\nlimit = {int4 = "1"}', "limit.int4", "number"),
    "infinite limit": ("[gates.flip_rate]\nlimit = inf", "gates.flip_rate.limit", "not a limit"),
    "limit not a number": ("[gates.flip_rate]\nlimit = nan", "flip_rate.limit", "not a limit"),
    "operator": ('[gates.flip_rate]\noperator = "<"', "gates.flip_rate.operator", "<=, >="),
    "severity": ('[gates.flip_rate]\nseverity = "blok"', "flip_rate.severity", "write block"),
    "enabled as text": ('[gates.flip_rate]\nenabled = "no"', "flip_rate.enabled", "boolean"),
    "inconclusive": ('[gates.flip_rate]\ninconclusive = "wran"', "inconclusive", "write warn"),
    "size class": ("[gates.kld_mean]\nlimit_below_2b = 1", "limit_below_2b", "write limit_below_"),
    "two kinds of limit": (
        "[gates.flip_rate]\nchampion_factor = 1.2",
        "gates.flip_rate has limit and champion_factor",
        "mend",
    ),
    "sizes of a champion": (
        "[gates.kld_to_champion]\nlimit_below_1b = 0.3",
        "gates.kld_to_champion has champion_factor and limits by size",
        "mend",
    ),
    "floor of a number": (
        "[gates.flip_rate]\nnever_tighter_than = 0.01",
        "gates.flip_rate has never_tighter_than",
        "mend",
    ),
    "equal model": (
        "[gates.kld_to_champion]\nchampion_factor = 0.9",
        "gates.kld_to_champion refuses a model that equals the champion",
        "mend",
    ),
    "equal share": (
        "[gates.right_to_champion]\nchampion_margin = 0.01",
        "gates.right_to_champion refuses a model that equals the champion",
        "mend",
    ),
    "warns, then blocks": (
        '[gates.ppl_ratio]\ninconclusive = "block"',
        "gates.ppl_ratio only warns when it fails",
        "mend",
    ),
    "own metrics": ('[metrics]\n"my.metric" = "mine"', "metrics", "selection, gates"),
    "gates not a table": ("gates = 3", "gates", "table"),
    "order twice": ('[selection]\norder = ["int4", "int4"]', "selection.order", "each precision"),
    "order unknown": ('[selection]\norder = ["int2"]', "selection.order", "write int8"),
    "TOML": ("[gates.flip_rate", "not TOML", "line 1"),
}


@pytest.mark.parametrize(("text", "where", "what"), REFUSED.values(), ids=REFUSED)
def test_wrong_file_is_refused_with_its_key_and_what_was_meant(
    tmp_path: Path, text: str, where: str, what: str
) -> None:
    with pytest.raises(PolicyRefused) as refused:
        policy_of(tmp_path, text)
    assert "policy.toml" in refused.value.message
    assert where in refused.value.message
    if "line" not in what:
        assert what in str(refused.value)


def test_new_gate_without_limits_for_all_precisions_is_refused(tmp_path: Path) -> None:
    text = '[gates.ram]\nmetric = "memory.peak_rss_bytes"\noperator = "<="\nlimit = {int4 = 1}'
    with pytest.raises(PolicyRefused, match="lacks limit for int8, limit for fp16"):
        policy_of(tmp_path, text)


def test_gate_on_a_metric_that_nothing_measures_is_refused(tmp_path: Path) -> None:
    text = '[gates.ram]\nmetric = "memory.peak_rss"\noperator = "<="\nlimit = 1'
    with pytest.raises(PolicyRefused, match=r"write memory\.peak_rss_bytes"):
        policy_of(tmp_path, text)


def test_policy_without_a_blocking_gate_is_refused(tmp_path: Path) -> None:
    names = tomllib.loads(DEFAULT_POLICY.read_text(encoding="utf-8"))["gates"]
    text = "".join(f"[gates.{name}]\nenabled = false\n" for name in names if name != "ppl_ratio")
    with pytest.raises(PolicyRefused, match="switches off every blocking gate"):
        policy_of(tmp_path, text)


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match="cannot be read"):
        load_policy(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyRefused, match="not TOML"):
        load_policy(tmp_path / "binary.toml")


def test_digest_follows_every_limit_and_no_order(tmp_path: Path) -> None:
    one = policy_of(tmp_path, "[gates.recovery]\nlimit=0.9\n[gates.flip_rate]\nlimit=0.1")
    same = policy_of(tmp_path, "[gates.flip_rate]\nlimit=0.1\n[gates.recovery]\nlimit=0.9")
    other = policy_of(tmp_path, "[gates.flip_rate]\nlimit=0.1\n[gates.recovery]\nlimit=0.91")
    assert policy_digest(one) == policy_digest(same) != policy_digest(other)


def test_what_the_examinations_measure_can_be_gated_and_what_is_gated_is_measured() -> None:
    suites = "|".join({name.split(".")[0] for name in POLICY.metrics})
    named: set[str] = {*fidelity.METRIC_NAMES, *fidelity.TEXT_METRIC_NAMES}
    for file in [*TASKS.glob("examine/**/*.py"), *TASKS.glob("foundry/**/*.py")]:
        text = file.read_text(encoding="utf-8")
        named.update(re.findall(rf'"((?:{suites})\.[a-z0-9_]*[a-z0-9])"', text))
    files = {name for name in named if name.endswith((".parquet", ".json", ".jsonl"))}
    gated = {each.metric for each in POLICY.gates}
    assert sorted(named - files - set(POLICY.metrics)) == []
    assert sorted(gated - named) == []


@pytest.mark.parametrize(
    ("precision", "enough"), [(Precision.INT4, 91), (Precision.INT8, 137), (Precision.FP16, 276)]
)
def test_default_limits_can_be_met_with_the_promised_number_of_questions(
    precision: Precision, enough: int
) -> None:
    assert all(_passes_unchanged(each, precision, enough) for each in _answer_gates())
    assert not all(_passes_unchanged(each, precision, enough - 1) for each in _answer_gates())


DOCUMENTED: dict[float, dict[Precision, int | None]] = {
    0.005: {Precision.INT4: 150, Precision.INT8: 220, Precision.FP16: 700},
    0.01: {Precision.INT4: 160, Precision.INT8: 300, Precision.FP16: 1450},
    0.02: {Precision.INT4: 250, Precision.INT8: 500, Precision.FP16: None},
    0.05: {Precision.INT4: 500, Precision.INT8: None, Precision.FP16: None},
    0.07: {Precision.INT4: 650, Precision.INT8: None, Precision.FP16: None},
}


@pytest.mark.parametrize("changed", DOCUMENTED)
def test_documented_numbers_of_questions_pass_in_four_runs_of_five(changed: float) -> None:
    for precision, enough in DOCUMENTED[changed].items():
        assert _chance_to_pass(precision, changed, enough or 3000) >= 0.8 or enough is None
        fewer = 3000 if enough is None else int(0.75 * enough)
        assert _chance_to_pass(precision, changed, fewer) < 0.8


def test_numbers_of_questions_in_the_guide_are_those_that_are_checked() -> None:
    guide = (TASKS.parent / "docs" / "questions.md").read_text(encoding="utf-8")
    assert "| none | 91 | 137 | 276 |" in guide
    for changed, numbers in DOCUMENTED.items():
        cells = " | ".join(f"{n:,}" if n else "never" for n in numbers.values())
        assert f"| {100 * changed:g} % | {cells} |" in guide


def _chance_to_pass(precision: Precision, changed: float, n: int) -> float:
    """Sum the chances of all counts of gained and lost answers that both paired gates pass on."""
    delta, flips = (gate(POLICY, name) for name in ("answers_delta", "flip_rate"))
    chance = 0.0
    for count in range(n):
        if wilson(count, n)[1] > flips.limit[precision]:
            break
        log_ways = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
        log_chance = log_ways + count * math.log(changed) + (n - count) * math.log(1 - changed)
        losing = [paired_difference(count - lost, lost, n)[0] for lost in range(count + 1)]
        passing = sum(
            math.comb(count, lost)
            for lost, low in enumerate(losing)
            if low >= delta.limit[precision]
        )
        chance += math.exp(log_chance) * passing / 2**count
    return chance


def _answer_gates() -> list[Gate]:
    """The gates on questions that every variant has to pass; others only warn when undecided."""
    return [
        each
        for each in POLICY.gates
        if each.metric.startswith("answers.") and each.limit and each.inconclusive == "block"
    ]


def _passes_unchanged(each: Gate, precision: Precision, n: int) -> bool:
    """Judge a variant that answers every one of n questions as the reference does, all right."""
    change = paired_difference(0, 0, n)
    intervals = {
        "answers.right": wilson(n, n),
        "answers.flip_rate": wilson(0, n),
        "answers.delta": change,
        "answers.format_delta": change,
        "answers.json_delta": change,
        "answers.schema_delta": change,
        "answers.loops_delta": change,
        "answers.recovery": (1 + change[0], 1 + change[1]),
        "answers.stopped_ratio": (1 + change[0], 1 + change[1]),
        "answers.worst_category_bound": (change[1], change[1]),
        "answers.empty": (0.0, 0.0),
        "answers.wrong_script": (0.0, 0.0),
    }
    seen = Measurement(value=sum(intervals[each.metric]) / 2, ci95=intervals[each.metric], n=n)
    return judge_gate(each, seen, each.limit[precision]).verdict is GateVerdict.PASS
