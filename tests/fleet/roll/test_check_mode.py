"""update.yml --check: what an update would do, told by a fleet that works on."""

from __future__ import annotations

import pytest

from tests.fleet.roll.conftest import Fleet

RELEASES = "readlink /opt/corral/current /opt/corral/previous; ls /opt/corral/releases"


@pytest.mark.timeout(1200)  # the first test pays for the site
def test_check_mode_shows_the_update_and_changes_nothing(fleet: Fleet) -> None:
    release = fleet.another()
    hosts = ("broker", *fleet.workers)
    before = {host: fleet.ssh(host, RELEASES) for host in hosts}
    lives, broker = fleet.lives(), fleet.client.status().started

    planned = fleet.site.play("update", "-e", f"release={release}", "--check", "--diff")
    assert planned.changed.keys() == set(hosts)
    for host in fleet.workers:
        assert f"\n-{host} open\n" in planned.output, host  # the difference that the drain makes
        assert f"\n+{host} drained\n" in planned.output, host
    assert f"\n+    src: /opt/corral/releases/{release}\n" in planned.output

    assert {host: fleet.ssh(host, RELEASES) for host in hosts} == before
    assert (fleet.lives(), fleet.client.status().started) == (lives, broker)
    assert set(fleet.releases()) == set(fleet.workers)  # and nobody is drained

    # What is told is what comes.
    status, output = fleet.update(release)
    assert status == 0, output
    assert fleet.all_on(release)

    # Nobody is due, and that is told as well.
    assert fleet.site.play("update", "-e", f"release={release}", "--check").changed == {}
