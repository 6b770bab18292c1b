"""What systemd is told about this process (sd_notify(3)). Silent when systemd did not start it."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Systemd:
    """Readiness, status, and the watchdog that a daemon's own loop feeds."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        watched = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = int(os.environ.get("WATCHDOG_USEC", "0")) if watched else 0
        self.every = microseconds / 2e6 if self._address else 0.0  #: seconds; 0: no watchdog
        self._fed_at = 0.0
        self._status = ""

    def tell(self, **fields: str | int) -> None:
        """Send fields such as READY=1."""
        if not self._address:
            return
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(text.encode(), self._address)

    def status(self, text: str) -> None:
        """One line for `systemctl status`, sent when it changes."""
        if text != self._status:
            self._status = text
            self.tell(STATUS=text)

    def turned(self, now: float) -> None:
        """The loop has done a whole turn: feed the watchdog when that is due."""
        if self.every and now >= self._fed_at + self.every:
            self._fed_at = now
            self.tell(WATCHDOG=1)
