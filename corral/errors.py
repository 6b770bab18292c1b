"""The tree of errors: what went wrong, why, and what to type next.

A class is one kind of failure. Its docstring is the message a person reads: the first paragraph
says what happened (fields in braces are filled in), the second says how to cure it, and a third is
told where all its fields are known. `code` is the stable word that crosses the wire and stands in
JSON; `exit_status` is what the command line ends with. Raising, catching and printing live
elsewhere. This file imports nothing of Corral.
"""

from __future__ import annotations

import inspect
from string import Formatter
from typing import Any, ClassVar


class CorralError(Exception):
    """{what}

    Run `corral doctor` to see how broker, workers and this machine are doing.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.message)

    def _paragraphs(self) -> list[str]:
        text = inspect.cleandoc(type(self).__doc__ or "")
        return [" ".join(part.split()) for part in text.split("\n\n")]

    def _filled(self, template: str) -> str:
        try:
            return template.format(**self.fields)
        except (KeyError, IndexError, ValueError):
            return f"{template} {self.fields}"

    @property
    def message(self) -> str:
        """What happened and why, in one sentence."""
        return self._filled(self._paragraphs()[0])

    @property
    def cure(self) -> str:
        """What to do or type next."""
        _, *told = self._paragraphs()
        known = [part for part in told[1:] if all(name in self.fields for name in _fields(part))]
        return " ".join(self._filled(part) for part in [*told[:1], *known])


class Usage(CorralError):
    """{what}

    Run the command with --help to see its options.
    """

    code = "usage"
    exit_status = 2


class BadConfig(CorralError):
    """{file}: {key}: {why}

    Correct that key, then run `corral config` to see each setting and where it comes from.
    """

    code = "bad_config"
    exit_status = 2


class BadTask(CorralError):
    """The task cannot be accepted: {path}: {why}

    Correct the field and submit again; nothing of this submission was stored.
    """

    code = "bad_task"
    exit_status = 2


class BadParams(CorralError):
    """The params do not fit kind {kind}: {path}: {why}

    Correct them and submit again; nothing was stored.
    """

    code = "bad_params"
    exit_status = 2


class UnknownKind(CorralError):
    """No worker has ever announced the kind {kind}.

    Known kinds: {known}. Start a worker that has the handler installed, then submit again.
    """

    code = "unknown_kind"
    exit_status = 2


class MissingParent(CorralError):
    """Task {task} comes after {parent}, which does not exist.

    Submit the parent first, or in the same submission; `corral task list` shows what is there.
    """

    code = "missing_parent"
    exit_status = 2


class CyclicParents(CorralError):
    """The tasks wait for each other in a circle: {circle}

    Remove one of these dependencies; nothing of this submission was stored.
    """

    code = "cyclic_parents"
    exit_status = 2


class DuplicateId(CorralError):
    """The id {id} already belongs to a task with other content.

    Choose another --id, or leave it out; `corral task show {id}` shows the task that has it.
    """

    code = "duplicate_id"
    exit_status = 2


class TooLarge(CorralError):
    """{what} is {size} bytes; the limit is {limit}.

    Pass a path or an object-store address in the params instead of the data itself.
    """

    code = "too_large"
    exit_status = 2


class NotFound(CorralError):
    """There is no {noun} {name}.

    `corral {noun} list` shows what there is.

    A task that ended more than {kept} ago is no longer kept, nor is its result:
    `broker.retention` in the broker's configuration sets how long.
    """

    code = "not_found"
    exit_status = 3


class UnknownKey(NotFound):
    """There is no key {name} that gives access.

    `corral keys list` shows every key, revoked ones too.
    """

    code = "unknown_key"


class NoAttempt(NotFound):
    """There is no attempt {number} of task {id}.

    `corral task show {id}` shows those that there were.
    """

    code = "no_attempt"


class NoLog(NotFound):
    """There is no log of task {id}: its worker {worker} speaks plain Majordomo.

    What such a worker prints stays with it; `corral worker list` shows where it is.
    """

    code = "no_log"


class AmbiguousId(CorralError):
    """The prefix {name} fits more than one task: {candidates}

    Type more of the id.
    """

    code = "ambiguous_id"
    exit_status = 3


class NotAllowed(CorralError):
    """The key {who} has the role {role}, which may not call {action}.

    Use a key with the role {needed}, or ask an operator for `corral keys add --role {needed}`.
    """

    code = "not_allowed"
    exit_status = 4


class KeyRefused(CorralError):
    """The broker at {endpoint} refused this key: it is unknown or was revoked.

    Check CORRAL_KEY, or ask an operator to run `corral keys add` with your public key.
    """

    code = "key_refused"
    exit_status = 4


class KeyMismatch(CorralError):
    """The broker at {endpoint} cannot be spoken to like this: {why}.

    Name the key file that was made for this broker with --key or CORRAL_KEY.
    """

    code = "key_mismatch"
    exit_status = 4


class BrokerUnreachable(CorralError):
    """No broker answered at {endpoint} within {seconds} s.

    Start one with `corral up`, or name another with CORRAL_BROKER or --broker.
    """

    code = "broker_unreachable"
    exit_status = 5


class TimedOut(CorralError):
    """{what} was not finished after {seconds} s; it goes on.

    Come back with `corral task watch {id}`, or find out why with `corral task explain {id}`.
    """

    code = "timed_out"
    exit_status = 7


class TaskFailed(CorralError):
    """Task {id} {state}: {why}

    `corral task show {id}` tells its story, `corral task logs {id}` its output,
    `corral task retry {id}` runs it again.
    """

    code = "task_failed"
    exit_status = 1


class TaskCancelled(CorralError):
    """Task {id} was cancelled: {why}

    `corral task retry {id}` runs it again.
    """

    code = "task_cancelled"
    exit_status = 8


class WrongState(CorralError):
    """Task {id} is {state}, so it cannot {action}.

    `corral task show {id}` tells its story.
    """

    code = "wrong_state"
    exit_status = 2


class Busy(CorralError):
    """The broker is full: it holds {queued} unfinished tasks that carry {bytes} bytes.

    Submit again when some have finished; `max_tasks` and `max_task_bytes` in the broker's
    configuration set the bounds.
    """

    code = "busy"
    exit_status = 1


class TooManyWatches(CorralError):
    """The broker serves {count} watches already, and no more for this client.

    End some (`corral task watch`, or streams of the SDK) and watch again. `corral task show` tells
    how a task stands without a watch.
    """

    code = "too_many_watches"
    exit_status = 1


class StoreFull(CorralError):
    """The broker's store cannot be written: {why}

    Accepted tasks are safe and results still land. Free space on the broker's disk;
    it takes new work again by itself.
    """

    code = "store_full"
    exit_status = 1


class StoreInUse(CorralError):
    """Another broker (process {pid}) already leads the store {path}.

    Stop that one first, or start this one with another --data folder.
    """

    code = "store_in_use"
    exit_status = 2


class StoreCorrupt(CorralError):
    """The store {path} is damaged: {why}

    Run `corral broker fsck --data {path}`; it names what is damaged and what can be recovered.
    """

    code = "store_corrupt"
    exit_status = 1


class StoreRefused(CorralError):
    """The store cannot live at {path}: {why}

    Choose a --data folder on a local, writable disk.
    """

    code = "store_refused"
    exit_status = 2


class HistoryUnusable(CorralError):
    """The history {path} cannot be kept: {why}

    Move that file away and start the gateway again: it begins a new one. Or name another one
    with --history.
    """

    code = "history_unusable"
    exit_status = 2


class StoreNewer(CorralError):
    """The store in {path} was made by a newer Corral (schema {schema}; this one knows {known}).

    Start the newer release again. To go back, start this one on a copy made before the update:
    `corral broker start --data COPY`.
    """

    code = "store_newer"
    exit_status = 2


class BackupFailed(CorralError):
    """The store was not copied to {path}: {why}

    Nothing was left there, and the broker goes on. Free space or name another folder with --to,
    then run `corral broker backup` again.
    """

    code = "backup_failed"
    exit_status = 1


class Fenced(CorralError):
    """This broker (epoch {mine}) was deposed: the store is led by epoch {current}.

    Nothing of the refused write was stored. Let the leading broker work, or stop it first.
    """

    code = "fenced"
    exit_status = 1


class AddressInUse(CorralError):
    """The address {endpoint} cannot be bound: {why}

    Another broker may be running there: `corral broker status`. Or choose another --bind.
    """

    code = "address_in_use"
    exit_status = 2


class KeysRequired(CorralError):
    """The broker would listen beyond this machine at {endpoint} without keys.

    Make keys with `corral keys new --keys DIR` and start it with --keys DIR.
    """

    code = "keys_required"
    exit_status = 2


class NoKeys(CorralError):
    """This broker was started without --keys, so it knows no keys and asks for none.

    Make them with `corral keys new --keys DIR` and start the broker with --keys DIR.
    """

    code = "no_keys"
    exit_status = 2


class MissingExtra(CorralError):
    """This needs the Python module {module}, which is not installed.

    Run: pip install 'corral[{extra}]'
    """

    code = "missing_extra"
    exit_status = 2


class Intruder(CorralError):
    """The module {module} was imported from {found}, not from Corral's own {expected}.

    Rename that file, or start the daemon from another folder.
    """

    code = "intruder"
    exit_status = 2


class IllegalTransition(CorralError):
    """A task that is {state} cannot {cause}; nothing was changed.

    This is a defect of Corral itself: please report it with `corral task show -o json`.
    """

    code = "illegal_transition"


def _fields(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name]


def _all(root: type[CorralError]) -> list[type[CorralError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in _all(child))]


BY_CODE: dict[str, type[CorralError]] = {cls.code: cls for cls in _all(CorralError)}


def from_wire(code: str, fields: dict[str, Any]) -> CorralError:
    """The error a peer named by `code`, with the fields it sent; unknown codes stay readable."""
    cls = BY_CODE.get(code)
    if cls is None:
        return CorralError(what=f"{code}: {fields}")
    return cls(**fields)
