"""The child process: it runs the attempts of one kind, one after the other, in its main thread.

Started by the agent as `python -P -m worker.runner`, never by a person. Its main thread reads work
and calls the handler. A second thread reads what cannot wait: a wish to stop, or to give back what
has not begun; and when the agent dies it ends this process and all that it started. What a handler
sees of its attempt is in `worker.attempt`.

Tiny tasks are why this file is careful: an attempt costs no system call or file without need.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import msgspec

from corral import handlers
from corral.handlers import Run
from corral.messages import Ended, Item, Raw
from corral.tasks import Failure
from worker import failures, logs
from worker.attempt import Attempt, Outlet
from worker.pipe import Ask, Done, GiveBack, Given, Inbox, Ready, Setup, ToChild, Want, Work

FLUSH_EVERY = 0.002  # seconds between messages with results
FLUSH_BYTES = 1 << 20
MAX_NOTES = 3  # lines for the agent's log, in one message
NOTED = 1.0  # seconds from which on a success is worth a line
MAX_ASKED = 100  # wishes about attempts that have not begun
READ = 1 << 18  # bytes
_NIL = b"\xc0"
_ORDERED = ("cancelled", "handed_back")  # outcomes that somebody asked for


class Child:
    """This process: its sockets, its handler, and the attempts that it was fed."""

    def __init__(self, data: socket.socket, page: mmap.mmap) -> None:
        self._data = data
        self._begun = memoryview(page).cast("Q")  # the agent reads it, even after a kill -9
        self._inbox: Inbox[ToChild] = Inbox(ToChild)
        self._reading = threading.Lock()  # of the inbox; held by whoever reads from the socket
        self._queue: deque[Item] = deque()
        self._asked: dict[bytes, Want] = {}
        self._current: Attempt | None = None
        self._ending = threading.Lock()  # of the four below
        self._done: list[Ended] = []
        self._notes: list[tuple[str, bool]] = []
        self._busy = self._longest = 0.0
        self._outlet = Outlet(data)
        self._pack = msgspec.msgpack.Encoder().encode

    def set_up(self, setup: Setup) -> None:
        """Import the handler."""
        self._setup = setup
        self._log = logs.Catch(setup.folder, setup.catch)
        self._function, self._decode = _load(setup.kind)
        self._outlet.send(Ready())

    def _take(self, message: ToChild) -> None:
        if isinstance(message, Setup):
            self.set_up(message)
        elif isinstance(message, Work):
            self._queue.extend(message.items)
            # A child serves one lane at a time, so these hold for all that is queued.
            self._arrived, self._cpus, self._measure = (
                message.arrived, message.cpus, message.measure,
            )  # fmt: skip

    # --- the main thread ----------------------------------------------------------------

    def serve(self) -> None:
        """Run what comes until the agent closes its end."""
        while True:
            with self._reading:
                data = self._data.recv(READ)
                for message in self._inbox.fill(data):
                    self._take(message)
            if not data:
                return
            self._work()

    def _work(self) -> None:
        """Run what is queued; send the results every few milliseconds, and when all is done."""
        queue, flushed, held = self._queue, monotonic(), 0
        while queue:
            try:
                item = queue.popleft()
            except IndexError:  # the other thread gave it back
                break
            attempt = Attempt(self._setup, self._outlet, item, self._cpus)
            self._current = attempt
            self._begun[0] += 1
            if self._asked:
                attempt.want = self._asked.pop(item.token, None)
            if self._measure:
                _forget_peak()
            attempt.began = began = monotonic()
            outcome, packed, failure = self._run(attempt, item)
            ended = monotonic()
            seconds = ended - began
            self._current = None
            lost = self._log.settle(item)
            if attempt.used:
                attempt.clean_up()
            waited = began - self._arrived
            peak = _peak_gb() if self._measure else 0.0
            with self._ending:
                self._done.append(
                    Ended(item.token, outcome, seconds, Raw(packed), failure, waited, peak)
                )
                self._busy += seconds
                if seconds > self._longest:
                    self._longest = seconds
                if (failure or seconds >= NOTED) and len(self._notes) < MAX_NOTES:
                    self._notes.append(_note(item, self._setup.kind, outcome, seconds, failure))
                if lost and len(self._notes) < MAX_NOTES:
                    self._notes.append((f"{item.id} attempt {item.attempt}: {lost}", True))
            held += len(packed)
            if ended - flushed > FLUSH_EVERY or held > FLUSH_BYTES:
                self._flush()
                flushed, held = ended, 0
        self._flush()

    def _run(self, attempt: Attempt, item: Item) -> tuple[str, bytes, Failure | None]:
        """Outcome, packed value and failure of one attempt."""
        try:
            if attempt.want is not None:
                attempt.check_cancelled()
            try:
                params = self._decode(item.params)
            except msgspec.MsgspecError as bad:
                return "error", _NIL, failures.bad_params(bad)
            value = self._function(params, attempt)
        except SystemExit:
            self._flush()
            raise
        except BaseException as error:
            outcome, failure = failures.describe(error, attempt.want, self._setup.kind)
            return outcome, _NIL, failure
        if attempt.handed_back:
            return "handed_back", _NIL, Failure("handed_back", "it saved a checkpoint and stopped")
        try:
            packed = self._pack(value)
        except Exception as bad:
            return "error", _NIL, failures.unpackable(value, bad)
        if len(packed) > self._setup.result_limit:
            return "error", _NIL, failures.too_large(len(packed), self._setup.result_limit)
        return "ok", packed, None

    def _flush(self) -> None:
        """Send the results at hand."""
        with self._ending:
            if not self._done:
                return
            packed = Raw(self._pack(self._done))
            done = Done(len(self._done), self._busy, self._longest, packed, self._notes)
            self._outlet.send(done)
            self._done, self._notes = [], []
            self._busy = self._longest = 0.0

    # --- the other thread ---------------------------------------------------------------

    def obey(self, control: socket.socket) -> None:
        """Do what cannot wait for the handler; when the agent dies, die with all descendants."""
        inbox: Inbox[ToChild] = Inbox(ToChild)
        while data := _receive(control):
            for message in inbox.fill(data):
                if isinstance(message, Ask):
                    self._ask(message)
                elif isinstance(message, GiveBack):
                    self._give_back()
        os.killpg(os.getpgid(0), signal.SIGKILL)

    def _ask(self, message: Ask) -> None:
        # It may be about an attempt that begins this very moment: first remember, then look.
        self._asked[message.token] = message.want
        while len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        current = self._current
        if current is not None and current.item.token == message.token:
            current.want = self._asked.pop(message.token, message.want)

    def _give_back(self) -> None:
        if self._reading.acquire(blocking=False):  # else the main thread waits for work
            try:
                for message in self._inbox.fill(_receive(self._data, socket.MSG_DONTWAIT)):
                    self._take(message)
            finally:
                self._reading.release()
        returned: list[bytes] = []
        while self._queue:
            try:
                returned.append(self._queue.popleft().token)
            except IndexError:  # the main thread took it
                break
        current = self._current
        self._flush()
        if current is None:
            self._outlet.send(Given(b"", 0.0, returned))
        else:
            self._outlet.send(Given(current.item.token, current.began, returned))


def _receive(source: socket.socket, flags: int = 0) -> bytes:
    """What there is to read; nothing when the other side is gone or, not waiting, silent."""
    try:
        return source.recv(READ, flags)
    except OSError:
        return b""


def _load(kind: str) -> tuple[Callable[[Any, Run], Any], Callable[[Raw], Any]]:
    """The handler's function, and the decoder of its params. A broken one raises when it is run."""
    try:
        handler = handlers.load(kind)
        return handler.function, msgspec.msgpack.Decoder(handler.params_type).decode
    except Exception as error:
        reason = error

        def broken(params: Any, run: Run) -> Any:
            raise reason

        return broken, msgspec.msgpack.Decoder().decode


def _note(
    item: Item, kind: str, outcome: str, seconds: float, failure: Failure | None
) -> tuple[str, bool]:
    """A line about an attempt, and whether it is a warning."""
    text = f"{kind} {item.id} attempt {item.attempt}: {outcome} after {seconds:.3g} s"
    if failure is None:
        return text, False
    named = "" if failure.type == outcome else f"{failure.type}: "
    return f"{text}: {named}{' '.join(failure.message.split())[:200]}", outcome not in _ORDERED


def _forget_peak() -> None:
    """Let the kernel begin its record of the largest memory anew (proc(5), clear_refs)."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    except OSError:
        pass  # then the peak is that of the process


def _peak_gb() -> float:
    """The largest memory since `_forget_peak`; 0 when the handler left no descriptor to read it."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / (1 << 20)
    return 0.0


def main() -> None:
    """Arguments: the kind, and the descriptors of the two sockets and of the shared page."""
    faulthandler.enable()  # what a segmentation fault interrupted is in the attempt's log
    data, control = (socket.socket(fileno=int(number)) for number in sys.argv[2:4])
    page = int(sys.argv[4])
    for descriptor in (data.fileno(), control.fileno(), page):
        os.set_inheritable(descriptor, False)
    child = Child(data, mmap.mmap(page, mmap.PAGESIZE))
    threading.Thread(target=child.obey, args=(control,), daemon=True).start()
    child.serve()


if __name__ == "__main__":
    main()
