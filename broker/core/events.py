"""What happens to the machine: four events, each with the time it is handled at.

Frames are parsed before (`corral.wire`), and large values are on the disk already.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from corral.tasks import Failure
from corral.wire import Inbound


class Heard(Struct, frozen=True, gc=False):
    """A peer said something. `blobs`: token -> digest of a value that the shell put on disk."""

    peer: bytes
    message: Inbound
    who: str = ""  #: the name of its key
    blobs: dict[bytes, str] = {}
    left: Mapping[str, str] = {}  #: tasks that the shell left in the store, and why


class PeerLost(Struct, frozen=True, gc=False):
    """A message could not be delivered: the peer's connection is gone."""

    peer: bytes
    revoked: bool = False  #: its key gives no access any more: no lease holds


class Unsendable(Struct, frozen=True, gc=False):
    """What an attempt needs, the results of its parents above all, is lost or fits no message."""

    token: bytes
    failure: Failure


class Turn(Struct, frozen=True, gc=False):
    """Everything that had arrived is handled: see to what is due, and place what can be placed."""


Event = Heard | PeerLost | Turn | Unsendable
