"""A fleet that is deployed, or a cluster without one, on the site that all tests share.

A test may leave the fleet in any state: the next one gets what it asks for, and pays only when
that is not there.
"""

from __future__ import annotations

import pytest

from tests.fleet.playbooks.fleet import WORKERS, as_wanted, destroy
from tests.fleet.site import Site


@pytest.fixture
def empty(site: Site) -> Site:
    """Templates, and nothing that was made of them."""
    destroy(site, *site.containers())
    return site


@pytest.fixture
def deployed(site: Site) -> Site:
    """A broker and three workers, as inventory/lab wants them."""
    if not as_wanted(site):
        surplus = [vmid for vmid in site.containers() if vmid > 5000 + WORKERS]
        destroy(site, *surplus)
        site.play("deploy", "-e", "fleet_drift=true")
    return site
