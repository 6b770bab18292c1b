"""Properties of the planner: it reaches what is wanted, from anywhere, and breaks nothing."""

from __future__ import annotations

import time
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from ansible_collections.corral.fleet.plugins.module_utils.planner import Plan, Rules, plan
from ansible_collections.corral.fleet.plugins.module_utils.problems import BadWish
from ansible_collections.corral.fleet.plugins.module_utils.seen import MIB, Guest, Node
from ansible_collections.corral.fleet.plugins.module_utils.wanted import Wanted, wanted
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evidence import Evidence
from tests.fleet.collection.model import World, template

GIB = 1024 * MIB
NETWORK = {"bridge": "vmbr0", "subnet": "10.90.0.0/22", "gateway": "10.90.0.1"}
YES = Rules(confirm_destroy=True, confirm_empty=frozenset({"all"}), replace=frozenset({"all"}))


def role(name: str, vmid: int, count: int, **more: Any) -> dict[str, Any]:
    """One role, as a module is given it."""
    offset = 9 + (vmid - 4000) // 10
    given = {"name": name, "vmid": vmid, "count": count, "address_offset": offset, "template": "7"}
    return given | more


def fleet(*roles: dict[str, Any]) -> Wanted:
    return wanted(NETWORK, roles)


def world(nodes: int = 3, versions: tuple[str, ...] = ("7",), memory: int = 64 * GIB) -> World:
    names = [f"pve{number}" for number in range(1, nodes + 1)]
    templates = [
        template(9000 + 10 * index + number, name, version)
        for index, version in enumerate(versions)
        for number, name in enumerate(names)
    ]
    return World([Node(name, True, 16, memory) for name in names], templates)


def plan_for(wish: Wanted, there: World, rules: Rules = YES, **more: Any) -> Plan:
    return plan(wish, there.seen(), rules, more.get("configs", {}), more.get("taken", {}))


wishes = st.builds(
    lambda workers, brokers, cores, memory, version: fleet(
        role("broker", 4000, brokers, template=version),
        role("worker", 5000, workers, cores=cores, memory_mib=memory, template=version),
    ),
    workers=st.integers(0, 12),
    brokers=st.integers(0, 2),
    cores=st.integers(1, 4),
    memory=st.sampled_from([256, 512, 1024]),
    version=st.sampled_from(["7", "8"]),
)


def check_reached(wish: Wanted, there: World) -> None:
    """The cluster is what was wanted: these containers, whole, once each, within the nodes."""
    for one in wish.roles:
        members = there.members(one.name)
        assert len(members) == one.count
        for vmid, guest in members.items():
            assert guest.status == "running"
            assert set(guest.tags) == set(wish.tags(one, vmid - one.vmid, one.template))
    orphans = [guest for guest in there.guests.values() if not guest.role and not guest.flag]
    assert not orphans
    for node in there.nodes.values():
        on_it = [one for one in there.guests.values() if one.node == node.name and not one.flag]
        assert sum(one.memory for one in on_it) <= node.memory
    assert not plan_for(wish, there).todo


@given(wishes=st.lists(wishes, min_size=1, max_size=4))
def test_a_plan_reaches_the_fleet_and_the_next_one_is_empty(wishes: list[Wanted]) -> None:
    there = world(versions=("7", "8"))
    for wish in wishes:
        assert there.run(plan_for(wish, there))
        check_reached(wish, there)


@given(first=wishes, second=wishes, stops=st.lists(st.integers(0, 40), max_size=5))
@settings(max_examples=300)
def test_what_was_interrupted_anywhere_is_finished(
    first: Wanted, second: Wanted, stops: list[int]
) -> None:
    there = world(versions=("7", "8"))
    for number, stop in enumerate(stops):
        there.run(plan_for((first, second)[number % 2], there), stop)
    assert there.run(plan_for(second, there))
    check_reached(second, there)


@given(
    wish=wishes,
    cordoned=st.sets(st.sampled_from(["pve1", "pve2"])),
    offline=st.sets(st.sampled_from(["pve1", "pve2"])),
)
def test_cordoned_and_offline_nodes_get_nothing(
    wish: Wanted, cordoned: set[str], offline: set[str]
) -> None:
    there = world(nodes=4, versions=("7", "8"))
    for name in offline:
        there.nodes[name] = replace(there.nodes[name], online=False)
    made = plan_for(wish, there, replace(YES, cordoned=frozenset(cordoned)))
    assert not made.refusals
    assert not {step.node for step in made.of("create")} & (cordoned | offline)


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=4), nodes=st.integers(1, 5))
def test_containers_of_a_role_are_spread(counts: list[int], nodes: int) -> None:
    there = world(nodes=nodes)
    grown = 0
    for count in counts:
        grown = max(grown, count)
        there.run(plan_for(fleet(role("worker", 5000, grown)), there))
        on = [sum(g.node == name for g in there.members("worker").values()) for name in there.nodes]
        assert max(on) - min(on) <= 1


@given(count=st.integers(0, 60), memory=st.integers(1, 8), cores=st.integers(1, 8))
def test_no_node_is_promised_more_than_it_has(count: int, memory: int, cores: int) -> None:
    there = world(memory=8 * GIB)
    wish = fleet(role("worker", 5000, count, cores=cores, memory_mib=memory * 1024))
    made = plan_for(wish, there)
    fits = 3 * min(8 // memory, 64 // cores)
    assert bool(made.refusals) == (count > fits)
    assert len(made.of("create")) == min(count, fits)
    for node in made.capacity.values():
        for kind in ("cores", "memory_mib"):
            assert node[kind]["after"] <= node[kind]["limit"]


def test_no_room_says_what_each_node_lacks() -> None:
    there = world(nodes=2, memory=1 * GIB)
    wish = fleet(role("worker", 5000, 1, memory_mib=1536))
    rules = replace(YES, cordoned=frozenset({"pve2"}))
    refusal = " ".join(plan_for(wish, there, rules).refusals)
    assert "pve1 lacks 512 MiB" in refusal
    assert "pve2 is cordoned" in refusal
    assert "Lower the count" in refusal


def test_a_fleet_that_exists_stays_when_a_role_shrinks_and_the_named_go_first() -> None:
    there = world()
    there.run(plan_for(fleet(role("worker", 5000, 5)), there))
    rules = replace(YES, remove=("worker-2", "5004"))
    made = plan_for(fleet(role("worker", 5000, 2)), there, rules)
    assert [step.name for step in made.of("destroy")] == ["worker-2", "worker-4", "worker-5"]
    there.run(made)
    assert sorted(there.members("worker")) == [5001, 5003]
    assert not plan_for(fleet(role("worker", 5000, 2)), there).todo
    there.run(plan_for(fleet(role("worker", 5000, 3)), there))
    assert sorted(there.members("worker")) == [5001, 5002, 5003]


def test_containers_of_a_node_that_is_down_are_kept_and_not_made_twice() -> None:
    there = world()
    wish = fleet(role("worker", 5000, 3))
    there.run(plan_for(wish, there))
    there.nodes["pve2"] = replace(there.nodes["pve2"], online=False)
    made = plan_for(wish, there)
    assert not made.todo
    assert "node pve2 is offline" in {step.reason for step in made.steps}
    # When one must go, it is one that can; when more must go than can, that is said.
    on_it = {vmid for vmid, one in there.members("worker").items() if one.node == "pve2"}
    less = plan_for(fleet(role("worker", 5000, 1)), there)
    assert len(on_it) == 1
    assert not {step.vmid for step in less.of("destroy")} & on_it
    assert not less.refusals
    none = plan_for(fleet(role("worker", 5000, 0)), there)
    assert "its node pve2 is offline" in " ".join(none.refusals)


def test_a_stranger_in_a_slot_is_named_with_its_owner() -> None:
    there = world()
    there.guests[5001] = Guest(5001, "pve2", "qemu", name="mail", status="running", pool="office")
    made = plan_for(fleet(role("worker", 5000, 2)), there)
    (refusal,) = made.refusals
    assert "VMID 5001 is wanted for worker-1" in refusal
    assert "virtual machine mail on node pve2, pool office" in refusal


@pytest.mark.parametrize(
    ("roles", "rules", "told"),
    [
        ([role("worker", 5000, 0)], Rules(confirm_destroy=True), "empty the whole fleet"),
        ([], Rules(confirm_destroy=True), "empty the whole fleet"),
        ([role("broker", 4000, 1)], Rules(confirm_destroy=True), "confirm_empty: [worker]"),
        ([role("broker", 4000, 1), role("worker", 5000, 2)], Rules(), "confirm_destroy: true"),
    ],
)
def test_what_destroys_needs_leave(roles: list[dict[str, Any]], rules: Rules, told: str) -> None:
    there = world()
    there.run(plan_for(fleet(role("broker", 4000, 1), role("worker", 5000, 3)), there))
    if not any(one["name"] == "broker" for one in roles):
        del there.guests[4001]
    assert told in " ".join(plan_for(fleet(*roles), there, rules).refusals)


def test_an_old_template_is_kept_until_its_replacement_is_asked_for() -> None:
    there = world(versions=("7", "8"))
    there.run(plan_for(fleet(role("worker", 5000, 3)), there))
    wish = fleet(role("worker", 5000, 3, template="8"))
    stale = plan_for(wish, there, replace(YES, replace=frozenset()))
    assert not stale.todo
    assert all(step.stale for step in stale.steps)
    one = plan_for(wish, there, replace(YES, replace=frozenset({"worker-2"})))
    assert [step.vmid for step in one.todo] == [5002]
    assert one.todo[0].action == "replace"


def test_a_missing_template_names_those_that_there_are() -> None:
    made = plan_for(fleet(role("worker", 5000, 1, template="9")), world())
    (refusal,) = made.refusals
    assert "wants template 9, and there is 7 on pve1, pve2, pve3" in refusal
    assert "playbooks/template.yml" in refusal


def test_addresses_are_given_once() -> None:
    taken = {IPv4Address("10.90.0.11"): "guest 777 (mail)"}
    wish = fleet(role("worker", 4000, 3))
    refusal = " ".join(plan_for(wish, world(), taken=taken).refusals)
    assert "Address 10.90.0.11 of worker-2 is taken by guest 777 (mail)" in refusal
    clash = fleet(
        role("broker", 4000, 1, address_offset=0), role("worker", 5000, 2, address_offset=2)
    )
    assert "taken by the gateway" in " ".join(plan_for(clash, world()).refusals)
    twice = fleet(
        role("broker", 4000, 3, address_offset=10), role("worker", 5000, 1, address_offset=11)
    )
    assert "is taken by broker-2" in " ".join(plan_for(twice, world()).refusals)
    beyond = fleet(role("worker", 5000, 2, address_offset=1021))
    assert "is not in 10.90.0.0/22" in " ".join(plan_for(beyond, world()).refusals)


@pytest.mark.parametrize(
    ("roles", "told"),
    [
        ([role("worker", 5000, 2, hostname="w")], "put {ordinal} into it"),
        ([role("worker", 5000, 1), role("broker", 5000, 1)], "the same vmid"),
        ([role("worker", 5000, 1), role("worker", 6000, 1)], "listed twice"),
        ([role("worker", 5000, 11), role("broker", 5010, 1)], "has VMIDs for 10"),
        ([role("Worker", 5000, 1)], "lower-case"),
        ([role("worker", 5000, 1, tags=["role-x"])], "cannot be a tag"),
        ([role("worker", 5000, 1, template="A b")], "cannot be a version"),
        ([{"name": "worker"}], "needs name, vmid, address_offset and template"),
    ],
)
def test_a_wish_that_contradicts_itself_is_refused(roles: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(BadWish, match=told.replace("{", r"\{")):
        fleet(*roles)


def test_drift_shows_each_option_before_and_after() -> None:
    there = world()
    wish = fleet(role("worker", 5000, 1))
    there.run(plan_for(wish, there))
    config = {
        "cores": 4,
        "memory": 512,
        "swap": 0,
        "hostname": "worker-1",
        "onboot": 1,
        "net0": "name=eth0,bridge=vmbr0,gw=10.90.0.1,hwaddr=BC:24:11:00:00:01,"
        f"ip={wish.address(wish.roles[0], 1)}/22,type=veth",
    }
    (step,) = plan_for(wish, there, configs={5001: config}).steps
    assert step.action == "update"
    assert step.changes == {"cores": {"before": "4", "after": "1"}}
    assert not plan_for(wish, there, configs={5001: config | {"cores": 1}}).todo


def test_five_hundred_containers_are_planned_in_a_second(evidence: Evidence) -> None:
    there = world(nodes=10, memory=1024 * GIB)
    wish = wanted(
        {"bridge": "vmbr0", "subnet": "10.90.0.0/22"}, [role("worker", 5000, 500, cores=1)]
    )
    began = time.perf_counter()
    made = plan_for(wish, there)
    there.run(made)
    assert not plan_for(wish, there).todo
    seconds = time.perf_counter() - began
    evidence.record("two plans for 500 containers", seconds=round(seconds, 3))
    assert seconds < 1
