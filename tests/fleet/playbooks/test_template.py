"""template.yml on real containers: the version that every other test clones."""

from __future__ import annotations

import pytest

from tests.fleet.site import Site

pytestmark = pytest.mark.timeout(900)  # the first test pays for the site


def test_every_node_has_a_sealed_copy_and_nothing_else(site: Site) -> None:
    assert site.containers() == {}
    before = site.mark()
    assert site.play("template").changed == {}
    assert {call.split()[0] for call in site.calls(before)} == {"GET"}
