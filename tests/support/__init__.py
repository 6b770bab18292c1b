"""What tests of several tiers share: random values of every message type, malformed messages."""

from __future__ import annotations
