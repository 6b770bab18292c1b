"""deploy.yml, verify.yml and drift.yml on real containers, as an operator plays them."""

from __future__ import annotations

import pytest

from tests.fleet.site import Site

pytestmark = pytest.mark.timeout(900)  # the first test pays for the site


def test_a_second_deploy_changes_nothing(deployed: Site) -> None:
    before = deployed.mark()
    again = deployed.play("deploy")
    assert again.changed == {}
    assert set(again.recap) == {"localhost", "broker", "worker-1", "worker-2", "worker-3"}
    assert deployed.calls(before) == ["GET /cluster/resources"] * 3


def test_a_fresh_fleet_is_verified_by_tasks_that_it_runs(deployed: Site) -> None:
    deployed.play("verify")
    assert set(deployed.workers()) == {"worker-1", "worker-2", "worker-3"}
