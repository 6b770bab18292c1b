"""From an exception of a handler to the outcome and failure that the broker records."""

from __future__ import annotations

import traceback

import msgspec

from corral.errors import CorralError, MissingExtra
from corral.handlers import Cancelled, discover
from corral.tasks import Failure
from worker import extras
from worker.pipe import Want

MAX_TRACEBACK = 8 * 1024  # characters; the end of it says most
MAX_MESSAGE = 2 * 1024


def describe(error: BaseException, want: Want | None, kind: str) -> tuple[str, Failure]:
    """Outcome and failure of an attempt of `kind` that ended with `error` while `want` held."""
    if isinstance(error, Cancelled) and want is Want.CANCEL:
        return "cancelled", Failure("cancelled", "it stopped when it was cancelled")
    if isinstance(error, Cancelled) and want is Want.HAND_BACK:
        return "handed_back", Failure("handed_back", "it stopped because its worker leaves")
    if isinstance(error, ModuleNotFoundError):
        lack = extras.of_module(error.name or str(error), discover().get(kind))
        return "error", Failure("missing_extra", lack.text, trace(error))
    if isinstance(error, MissingExtra):
        return "error", Failure("missing_extra", f"{error.message} {error.cure}", trace(error))
    outcome = "out_of_memory" if isinstance(error, MemoryError) else "error"
    return outcome, Failure(type(error).__name__, message(error), trace(error))


def message(error: BaseException) -> str:
    """The text of an exception, however badly its class behaves."""
    try:
        text = error.message if isinstance(error, CorralError) else str(error)
    except Exception as worse:
        text = f"(its text cannot be made: {type(worse).__name__})"
    return clean(text)[:MAX_MESSAGE]


def trace(error: BaseException) -> str:
    """The traceback without the frame of the runner itself."""
    below = error.__traceback__.tb_next if error.__traceback__ is not None else None
    try:
        lines = traceback.format_exception(type(error), error, below)
    except Exception as worse:
        return f"(no traceback: {type(worse).__name__})"
    return clean("".join(lines))[-MAX_TRACEBACK:]


def clean(text: str) -> str:
    """Text that UTF-8 can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def bad_params(why: msgspec.MsgspecError) -> Failure:
    """The params do not fit the handler's type."""
    return Failure("bad_params", clean(str(why)))


def unpackable(value: object, why: Exception) -> Failure:
    """The handler returned something that does not travel."""
    kind = type(value)
    text = f"its result, a {kind.__module__}.{kind.__qualname__}, cannot be packed: {message(why)}"
    hint = "; convert it, for example with float(x), int(x) or x.tolist()"
    return Failure("bad_result", text + (hint if "numpy" in text else ""))


def too_large(size: int, limit: int) -> Failure:
    """The handler returned more than a result may be."""
    text = f"its result is {size} bytes; the limit is {limit}: write a file and return its address"
    return Failure("result_too_large", text)
