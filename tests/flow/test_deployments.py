"""What Prefect would drop, deploy broken or fill in wrong without a word is refused beforehand."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from deployments.automations import AUTOMATIONS, NOTIFICATIONS, read_automations
from deployments.check import PREFECT_YAML, check_deployments
from deployments.trigger import sample_event
from flows.attempts import MOST
from tasks.core.errors import InputError


def changed(tmp_path: Path, file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    path = tmp_path / file.name
    path.write_text(text.replace(old, new))
    return path


def test_every_deployment_is_known_and_importable() -> None:
    assert check_deployments() == [
        "release/manual",
        "release/on-checkpoint",
        "release/nightly",
        "soak/weekly",
        "rollback/manual",
    ]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("definitions:", "definitons:", "unknown key definitons"),
        ("concurrency_limit: *both", "concurency_limit: *both", "unknown key concurency_limit"),
        ("collision_strategy:", "colision_strategy:", "unknown key colision_strategy"),
        ("schedules:", "scheduels:", "unknown key scheduels"),
        ("timezone: UTC", "time_zone: UTC", "unknown key time_zone"),
        ("posture:", "postur:", "unknown key postur"),
        ("match:", "matches:", "unknown key matches"),
        ("work_queue_name:", "queue:", "unknown key queue"),
        ("      env:", "      environment:", "unknown key environment"),
        ("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "PREFECT_FLOW_BEAT", "no setting PREFECT_FLOW_B"),
        ("both: &both {", "spare: {limits: 1}\n  both: &both {", "spare is used by no deployment"),
        ("ENQUEUE", "QUEUE", "collision_strategy: ENQUEUE or CANCEL_NEW"),
        ("flows.rollback.rollback", "flows.rollback.no_such_flow", "cannot be imported"),
        ("flows.rollback.rollback", "flows.inventory.go_back", "cannot be imported"),
        ("checkpoint: landing,", "chekpoint: landing,", "request.checkpoint: Field required"),
        ("newest: true", "newest: 7", "request.newest: Input should be a valid boolean"),
        ("{request: {examination", "{order: {examination", "no parameter 'order'"),
        ("parameters: {request: {examination: full}}", "", "needs the parameter request"),
        ("0 2 * * *", "0 25 * * *", "schedule 'nightly': cannot be read"),
        ("timezone: UTC", "timezone: Mars/Olympus", "schedule 'nightly': cannot be read"),
        ("checkpoint: landing", 'checkpoint: "{{ $INGOT_NOWHERE }}"', "no INGOT_NOWHERE"),
        ('expect: ["checkpoint.landed"]', 'expect: ["checkpoint.land"]', "nothing emits"),
        ("resource.id: ", "resouce.id: ", "does not cover the event checkpoint.landed"),
        ('"checkpoint.*"}', '"checkpoints.*"}', "does not cover the event checkpoint.landed"),
        ("posture: Reactive", "posture: Eager", "posture: Input should be"),
        ('{"checkpoint": {{', '{"checkpoint" {{', "InvalidJSON"),
        ("event.payload.path |", "event.payload.path ||", "InvalidJinja"),
        ("event.payload.path |", "event.payload.pth |", "request.checkpoint:"),
        (" | default(none) | tojson", "", "InvalidJSON"),
        ('"name": {{', '"nam": {{', "request.nam: Extra inputs"),
    ],
)  # fmt: skip
def test_planted_fault_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = changed(tmp_path, PREFECT_YAML, old, new)
    with pytest.raises(InputError, match=re.escape(complaint)):
        check_deployments(path)


def test_variable_that_is_set_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(tmp_path, PREFECT_YAML, "checkpoint: landing", 'checkpoint: "{{ $PLACE }}"')
    monkeypatch.setenv("PLACE", "/data")
    assert len(check_deployments(path)) == 5


def test_all_deployments_share_one_pool_and_the_tag_of_the_automations() -> None:
    entries = yaml.safe_load(PREFECT_YAML.read_text())["deployments"]
    assert {entry["work_pool"]["name"] for entry in entries} == {"ingot"}
    assert all("ingot" in entry["tags"] for entry in entries)
    assert all("pull" not in entry for entry in entries)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("match_related:", "match_relatd:", "unknown key trigger.match_relatd"),
        ("description:", "descripton:", "unknown key descripton"),
        ("      state: CRASHED", "      stat: CRASHED", "state: Field required"),
        ("      message: No", "      mesage: No", "unknown key actions.0.mesage"),
        ("posture: Proactive", "posture: Sleepy", "trigger"),
        ("ingot-resume-crashed", "ingot-crashed-when-silent", "is there twice"),
        ("within: 300", "within: 3", "greater than or equal to 10 seconds"),
        ("- name:", "- name", "cannot be read"),
    ],
)
def test_fault_in_an_automation_is_refused(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    with pytest.raises(InputError, match=re.escape(complaint)):
        read_automations(changed(tmp_path, AUTOMATIONS, old, new))


def test_notifications_need_a_block() -> None:
    with pytest.raises(InputError, match="--notify"):
        read_automations(NOTIFICATIONS)
    assert len(read_automations(NOTIFICATIONS, block=uuid4())) == 5


def test_automations_name_flows_that_there_are() -> None:
    from flows.approval_run import approval
    from flows.release import release
    from flows.rollback import rollback
    from flows.soak import soak

    named: set[str] = set()
    for one in [*read_automations(AUTOMATIONS), *read_automations(NOTIFICATIONS, block=uuid4())]:
        related = one.trigger.match_related
        for labels in related if isinstance(related, list) else [related]:
            if labels.root and "flow" in labels["prefect.resource.role"]:
                named.update(labels["prefect.resource.name"])
    assert named == {flow.name for flow in (approval, release, rollback, soak)}


def test_a_run_may_miss_nine_heartbeats_before_it_counts_as_dead() -> None:
    pool = yaml.safe_load(PREFECT_YAML.read_text())["definitions"]["pool"]
    heartbeat = int(pool["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    silent = {one.name: one for one in read_automations(AUTOMATIONS)}["ingot-crashed-when-silent"]
    assert silent.trigger.within >= timedelta(seconds=9 * heartbeat)
    # Every state of ours is an event of its own; a list would forget the next one.
    assert silent.trigger.expect == {"prefect.flow-run.*"}


def test_crashes_are_resumed_as_often_as_the_flow_lets_pass_and_once_more() -> None:
    resume = {one.name: one for one in read_automations(AUTOMATIONS)}["ingot-resume-crashed"]
    assert resume.trigger.match["prefect.run-count"] == [str(n + 1) for n in range(MOST)]


def test_sample_event_is_one_that_ingot_emits() -> None:
    with pytest.raises(InputError, match="nothing emits"):
        sample_event("checkpoint.lost")
