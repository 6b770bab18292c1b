"""Majordomo as others speak it, against a real broker process."""

from __future__ import annotations
