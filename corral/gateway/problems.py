"""Refusals as problem details (RFC 9457): what happened, why, and what to do next.

Pure: an error of `corral.errors` goes in, a status and a struct come out. Errors that only the
gateway knows stand here; they are written as those are, and have their status with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar

from msgspec import Struct

from corral.errors import CorralError, Usage

MEDIA_TYPE = "application/problem+json"
AGAIN = 2  # seconds after which one who was told "not now" may ask again


class Problem(Struct, frozen=True, kw_only=True):
    """The body of every answer that is no success."""

    type: str  #: `urn:corral:` and the code
    title: str
    status: int
    detail: str  #: what happened, and why
    code: str  #: the stable word for it, the same as on the command line
    next: str = ""  #: what to do or type


class Refusal(CorralError):
    """This cannot be answered: {what}

    `GET /api/v1/openapi.json` tells what it does.
    """

    code = "bad_request"
    exit_status = 2
    status: ClassVar[int] = 400


class NoToken(Refusal):
    """This gateway wants a token, and {why}.

    Send `Authorization: Bearer TOKEN`. An operator makes one with `corral gateway token new`.
    """

    code = "no_token"
    exit_status = 4
    status = 401


class RoleTooLow(Refusal):
    """The token {who} has the role {role}, which may not do this: {action}.

    Ask an operator for a token with the role {needed}.
    """

    code = "role_too_low"
    exit_status = 4
    status = 403


class GatewayMayNot(Refusal):
    """This gateway's own key, {who}, has the role {role}, so nobody may do this through it.

    Whoever runs the gateway can give it a key with the role {needed}: `corral keys new --role
    {needed}`, and `corral gateway start --key FILE`.
    """

    code = "gateway_may_not"
    exit_status = 4
    status = 403


class CrossSite(Refusal):
    """A page of {origin} asked for this, and only pages of this gateway may act.

    Ask without a browser, or from a page that this gateway serves.
    """

    code = "cross_site"
    exit_status = 4
    status = 403


class WrongHost(Refusal):
    """This gateway does not go by the name {host}.

    Use the address it was started with, or start it with --host {host}.
    """

    code = "wrong_host"
    exit_status = 2
    status = 421


class NoSuchPath(Refusal):
    """There is nothing at {path}.

    `GET /api/v1/openapi.json` lists every path.
    """

    code = "no_such_path"
    exit_status = 3
    status = 404


class NoSuchPipeline(Refusal):
    """There is no pipeline {name}: no task has it as its project.

    `GET /api/v1/pipelines` lists those of the latest tasks.
    """

    code = "no_such_pipeline"
    exit_status = 3
    status = 404


class WrongVerb(Refusal):
    """{verb} is not for {path}.

    What is: {allow}.
    """

    code = "wrong_verb"
    status = 405


class NotConfirmed(Refusal):
    """{matched} tasks match, not the {confirm} that were confirmed; nothing was changed.

    Look at them with `GET /api/v1/tasks`, then send again with "confirm": {matched}.
    """

    code = "not_confirmed"
    status = 409


class Gone(Refusal):
    """{what}

    {next}
    """

    code = "gone"
    status = 410


class NoHistory(Refusal):
    """This gateway keeps no history, so it can show no past moment.

    Start it with --history FILE.
    """

    code = "no_history"
    exit_status = 3
    status = 404


class BodyTooLarge(Refusal):
    """The body is larger than the {limit} bytes that this gateway takes.

    Submit in several requests; data itself belongs in a file that the params name.
    """

    code = "body_too_large"
    status = 413


class WrongMediaType(Refusal):
    """The body says that it is {found}, and only JSON is read here.

    Send it with `Content-Type: application/json`.
    """

    code = "wrong_media_type"
    status = 415


class BadBody(Refusal):
    """The body does not fit: {path}: {why}

    `GET /api/v1/openapi.json` tells what it may hold; nothing was changed.
    """

    code = "bad_body"
    status = 422


class TooFast(Refusal):
    """{who} asks more often than the {rate} times a second that are allowed.

    Wait for the seconds that `retry-after` names. Live state is cheaper by `GET /api/v1/stream`.
    """

    code = "too_fast"
    exit_status = 1
    status = 429


class TooManyStreams(Refusal):
    """There are {streams} open streams, as many as this gateway takes.

    Close a page, or raise `gateway.streams`.
    """

    code = "too_many_streams"
    exit_status = 1
    status = 503


class BrokerAway(Refusal):
    """The broker at {endpoint} has been away since {since}: {why}

    Tasks it has accepted are safe. The gateway connects again by itself; see `corral doctor`.
    """

    code = "broker_away"
    exit_status = 5
    status = 503


class Defect(Refusal):
    """The gateway met an error of its own: {what}

    Its log has the traceback; please report it.
    """

    code = "defect"
    status = 500


#: exit status of the command line -> status of an error that the broker or its client tells
BY_EXIT: Mapping[int, int] = {2: 422, 3: 404, 4: 403, 5: 503, 7: 504}
#: code -> status where that would say too little; a `Refusal` has its own
BY_CODE: Mapping[str, int] = {
    "usage": 400,
    "duplicate_id": 409,
    "ambiguous_id": 409,
    "wrong_state": 409,
    "too_large": 413,
    "missing_extra": 501,
    "key_refused": 503,  # the gateway's own key: no fault of who asks
    "key_mismatch": 503,
    "busy": 503,
    "too_many_watches": 503,
    "store_full": 503,
}


#: what a command's own help is to who calls it over HTTP
DOCUMENTED = "`GET /api/v1/openapi.json` tells what each call takes."


def status_of(error: CorralError) -> int:
    """The HTTP status that fits an error."""
    if isinstance(error, Refusal):
        return error.status
    return BY_CODE.get(error.code) or BY_EXIT.get(error.exit_status, 500)


def problem_of(error: CorralError) -> Problem:
    """An error as problem details."""
    return Problem(
        type=f"urn:corral:{error.code}",
        title=error.code.replace("_", " ").capitalize(),
        status=status_of(error),
        detail=error.message,
        code=error.code,
        next=DOCUMENTED if type(error) is Usage else error.cure,
    )


def headers_of(error: CorralError) -> dict[str, str]:
    """What an answer says beside its body."""
    status = status_of(error)
    if status == NoToken.status:
        return {"www-authenticate": 'Bearer realm="corral"'}
    if status == WrongVerb.status:
        return {"allow": str(error.fields["allow"])}
    if status in (429, 503):
        return {"retry-after": str(error.fields.get("seconds_left", AGAIN))}
    return {}


def moment(seconds: float) -> str:
    """A time for people and programs (RFC 3339)."""
    told = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    return told.replace("+00:00", "Z")
