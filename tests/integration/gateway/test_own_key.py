"""A gateway may do what its own key may, whoever asks: with a viewer's key everybody only looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_keys import House
from tests.support.gateway import Gateway, token


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    yield house
    house.close()


def test_with_a_viewers_key_nobody_acts_and_everybody_is_told_why(house: House) -> None:
    key = house.enrol("window", "viewer")
    ann = token(house.folder, "ann", "operator")
    options = ("--key", key, "--tokens", house.folder / "tokens.json")
    with (
        Gateway(house.folder, house.broker.endpoint, *options) as gateway,
        gateway.client(ann) as rest,
    ):
        assert rest.get("/broker").json()["tasks"]["queued"] == 0
        assert rest.get("/fleet").json() == []
        for path, body, needed in (
            ("/tasks", {"kind": "echo"}, "client"),
            ("/workers/w1/drain", {}, "operator"),
        ):
            refused = rest.post(path, json=body)
            problem = refused.json()
            assert (refused.status_code, problem["code"]) == (403, "gateway_may_not"), problem
            assert problem["detail"] == (
                "This gateway's own key, window, has the role viewer, so nobody may do this"
                " through it."
            )
            assert f"corral keys new --role {needed}" in problem["next"]
        assert sum(rest.get("/broker").json()["tasks"].values()) == 0
