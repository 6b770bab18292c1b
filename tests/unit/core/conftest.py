"""Every story of the core ends alike: nothing left over, every invariant, replay equals live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from corral.settings import BrokerSettings
from tests.unit.core.story import Story


@pytest.fixture
def stories() -> Iterator[Callable[..., Story]]:
    """Begin a story with settings of its own: `stories(named={"gate": 1})`."""
    begun: list[Story] = []

    def begin(**settings: Any) -> Story:
        begun.append(Story(BrokerSettings(**settings)))
        return begun[-1]

    yield begin
    for story in begun:
        story.end()


@pytest.fixture
def story(stories: Callable[..., Story]) -> Story:
    """A story with the default settings."""
    return stories()
