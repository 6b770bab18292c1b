"""A fleet that is deployed, for the tests that look at one."""

from __future__ import annotations

import pytest

from tests.fleet.site import Site


@pytest.fixture
def deployed(site: Site) -> Site:
    """A broker and three workers, as inventory/lab wants them."""
    site.play("deploy")
    return site
