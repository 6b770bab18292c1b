"""Between memory and store: loading, folding, letting go, and taking back.

The journal is the truth and memory is the whole of what is unfinished. From time to time what has
changed is folded into the store's tables, so that the journal stays short and ended tasks can
leave memory; a task that somebody asks for again is taken back from there. What facts mean is
`broker.core.state`'s; how bytes reach the disk, `broker.store`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from broker.core.admission import has_room
from broker.core.facts import (
    Aliased,
    Assigned,
    Fact,
    Record,
    Saved,
    decode_facts,
    decode_kept,
    decode_record,
    encode_facts,
    encode_kept,
    encode_record,
)
from broker.core.state import BrokerState, TaskRecord
from broker.store import Row, Store
from corral.errors import CorralError, NotFound, StoreCorrupt, StoreFull
from corral.handlers import echo, sleep
from corral.settings import BrokerSettings
from corral.tasks import State

MAX_ROW = 900_000_000  # bytes of one row of the journal: SQLite holds up to 10^9
FOLD_ROWS = 500  # rows of one transaction: a pause of some milliseconds
FOLD_PIECE = 16 << 20  # bytes of what they carry: each is packed anew for it
RECALL_ROWS = 16  # taken back at once, before it is seen how much room they left
FOLD_BYTES = 256 << 20  # a journal longer than this is folded even under load
FOLD_IDLE = 5.0  # seconds without an append before a fold begins by itself
RETENTION_EVERY = 600.0  # seconds between looks for what is too old
RETENTION_ROWS, RETENTION_FILES = 500, 20  # deleted at once: a pause of some milliseconds
CHECKPOINT_FILES = 50  # the same
ORPHAN_AGE = 3600.0  # seconds before a result that nobody names is deleted
CHECKPOINTS_EVERY = 60.0  # seconds between looks for checkpoints that newer ones replaced


class Keeper:
    """One broker's store, and what of it is in memory."""

    def __init__(self, store: Store, settings: BrokerSettings) -> None:
        self.store = store
        self.settings = settings
        self.lsn = 0
        self.journal_bytes = 0
        self.away: Counter[str] = Counter()  #: state -> tasks that only the tables hold
        self.tables = False  #: whether the tables may hold a task that memory does not
        self._pass: list[str] = []  #: ids that the running pass has still to fold
        self._pass_lsn = self._pass_bytes = 0
        self._folding = False
        self._bounds = (settings.in_memory, settings.in_memory_bytes)
        self._stayed = (0, 0)  #: ended tasks that the last pass left in memory, and their bytes
        self._appended = 0.0
        self._retention = self._checkpoints = 0.0
        self._saved: set[str] = set()  #: checkpoints that may have been replaced

    # --- loading ---------------------------------------------------------------------------

    def load(self) -> BrokerState:
        """The state as of the last committed row: tables first, then the journal over them."""
        self.journal_bytes, self._folding, self._pass = 0, False, []
        self._stayed = (0, 0)
        state = BrokerState(self.settings)
        for built_in in (echo, sleep):
            state.catalog.announce(built_in.announce())
        loaded = self.store.load()
        self.away = Counter(loaded.counts)
        folded: dict[str, int] = {"": loaded.state_lsn}
        if loaded.state:
            state.restore_kept(decode_kept(loaded.state))
            self.tables = True
        for row in loaded.rows:
            folded[row.id] = row.lsn
            self._restore(state, row)
            self.tables = True
        for lsn, entry in self.store.read(after=loaded.lsn):
            facts = decode_facts(entry)
            self._note_saved(facts)
            if self.tables:
                self._take_named(state, facts, folded)
            state.replay(lsn, facts, folded)
            self.journal_bytes += len(entry)
        # Ended tasks whose results are still needed.
        wanted = {id for t in state.tasks.values() if t.live for id in t.spec.after.values()}
        self._take(state, wanted, folded)
        state.rejoin()
        self.lsn = loaded.last
        for id, lsn in folded.items():  # the journal may still speak of ended ones with a new row
            if id and (lsn < loaded.last or not state.tasks[id].live):
                state.dirty.add(id)
        return state

    def _take_named(self, state: BrokerState, facts: list[Fact], folded: dict[str, int]) -> None:
        """Tasks that journal facts name and that have ended according to the tables."""
        wanted: list[str] = []
        for fact in facts:
            if isinstance(fact, Assigned):
                wanted += fact.ids
            elif (id := getattr(fact, "id", "")) and not hasattr(fact, "alias"):
                wanted.append(id)
        self._take(state, wanted, folded)

    def _take(self, state: BrokerState, ids: Iterable[str], folded: dict[str, int]) -> None:
        missing = [id for id in ids if id not in state.tasks]
        if missing:
            for row in self.store.find(missing).values():
                folded[row.id] = row.lsn
                self._restore(state, row)

    def _restore(self, state: BrokerState, row: Row) -> None:
        state.restore(decode_record(row.record))
        self.away[row.state] -= 1

    # --- writing ---------------------------------------------------------------------------

    def append(self, facts: list[Fact], now: float) -> int:
        """Commit the facts of one turn; they are on stable storage when this returns.

        Raises:
            StoreFull, Fenced: nothing of it was stored.
        """
        entry = encode_facts(facts)
        if len(entry) > MAX_ROW:
            raise StoreFull(why=f"{len(entry)} bytes at once are more than {MAX_ROW}")
        self.lsn = self.store.append(self.store.epoch, entry)
        self.journal_bytes += len(entry)
        self._appended = now
        self._note_saved(facts)
        return self.lsn

    def _note_saved(self, facts: list[Fact]) -> None:
        for fact in facts:
            if type(fact) is Saved:
                self._saved.add(fact.blob)

    # --- taking back -------------------------------------------------------------------------

    def recall(self, state: BrokerState, ids: Iterable[str]) -> None:
        """Take ended tasks back into memory, those that the tables hold."""
        if not self.tables:
            return
        missing = [id for id in ids if id not in state.tasks]
        if not missing:
            return
        for row in self.store.find(missing).values():
            self._restore(state, row)

    def left(self, state: BrokerState, ids: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Of these tasks those that the tables alone hold, as they have ended, and their states."""
        missing = [id for id in ids if self.tables and id not in state.tasks]
        for number in range(0, len(missing), RECALL_ROWS):
            rows = self.store.find(missing[number : number + RECALL_ROWS]).values()
            yield from ((row.id, row.state) for row in rows)

    def recall_lineage(
        self, state: BrokerState, ids: Iterable[str], *, bounded: bool = False
    ) -> set[str]:
        """Take back tasks, and the ancestors that a new run of them would open too.

        Args:
            bounded: no more of them than there is room for if all are opened again.

        Returns:
            Those that were not looked for, because there was no room for more.
        """
        wanted = list(dict.fromkeys(ids))[::-1]
        seen = set(wanted)
        count, size = _ended(state)
        while wanted:
            tasks, carried = _ended(state)
            if bounded and not has_room(state, tasks - count, carried - size):
                break
            rows = RECALL_ROWS if bounded else len(wanted)
            piece = wanted[-rows:]
            del wanted[-rows:]
            self.recall(state, piece)
            for id in piece:
                task = state.tasks.get(id)
                if task is None or task.live or task.state is State.SUCCEEDED:
                    continue
                parents = [parent for parent in task.spec.after.values() if parent not in seen]
                seen.update(parents)
                wanted += parents  # at the end: they are the next
        return set(wanted)

    def records(self, ids: list[str]) -> dict[str, Record]:
        """Records of tasks that only the tables hold."""
        return {id: decode_record(row.record) for id, row in self.store.find(ids).items()}

    # --- folding ---------------------------------------------------------------------------------

    def tend(self, state: BrokerState, now: float) -> bool:
        """Do a small piece of what is due; True when more is. Call it between turns.

        Raises:
            StoreFull, Fenced: nothing was changed.
        """
        if now >= self._checkpoints:  # first: it needs no room and makes some
            self._checkpoints = now + CHECKPOINTS_EVERY
            if self._sweep_checkpoints(state):
                self._checkpoints = now
                return True
        if self._folding:
            self._fold_some(state)
            return True
        if self._fold_due(state, now):
            self._folding = True
            self._pass = list(state.dirty)
            self._pass_lsn, self._pass_bytes = self.lsn, self.journal_bytes
            state.dirty.clear()
            return True
        if now >= self._retention:
            if self._retain(state, now):
                return True
            self._retention = now + RETENTION_EVERY
            self._stayed = (0, 0)  # some of it may be free to go by now
        return False

    def _fold_due(self, state: BrokerState, now: float) -> bool:
        if self.journal_bytes > FOLD_BYTES:
            return True
        for ended, bound, stayed in zip(_ended(state), self._bounds, self._stayed, strict=True):
            if ended > max(bound, stayed) + bound / 4:
                return True
        return self.journal_bytes > 0 and now - self._appended > FOLD_IDLE

    def _fold_some(self, state: BrokerState) -> None:
        ids = self._piece(state)
        rows = [self._row(state, state.tasks[id]) for id in ids if id in state.tasks]
        if len(ids) < len(self._pass):
            self.store.fold(self.store.epoch, rows)
        else:
            # Rows of this pass hold everything up to its beginning, so that much may go.
            document = encode_kept(state.kept(self.lsn))
            self.store.fold(self.store.epoch, rows, state=document, trim_to=self._pass_lsn)
            self.journal_bytes -= self._pass_bytes
            self._folding = False
            self._let_go(state)
        del self._pass[len(self._pass) - len(ids) :]
        self.tables = True

    def _piece(self, state: BrokerState) -> list[str]:
        """What the next transaction takes of the pass, at least one if there is one.

        From the end, so that what stays of a million ids is not copied.
        """
        ids = self._pass[-FOLD_ROWS:]
        size = 0
        for count, id in enumerate(reversed(ids)):
            task = state.tasks.get(id)
            size += 0 if task is None else task.size
            if size > FOLD_PIECE and count:
                return ids[-count:]
        return ids

    def _row(self, state: BrokerState, task: TaskRecord) -> Row:
        worker = task.attempts[-1].worker if task.attempts else ""
        if task.attempt is not None:
            worker = task.attempt.booking.worker.name
        return Row(
            id=task.id,
            state=task.state.value,
            live=task.live or bool(state.attempts_of(task)),
            kind=task.spec.kind,
            project=task.spec.project,
            worker=worker,
            submitted=task.submitted,
            ended=task.ended,
            lsn=self.lsn,
            blobs=tuple(blob for blob in (task.blob, task.checkpoint) if blob),
            record=encode_record(state.record(task)),
        )

    def _let_go(self, state: BrokerState) -> None:
        """Drop the oldest ended tasks from memory down to the bounds."""
        tasks, size = _ended(state)
        leaving: list[TaskRecord] = []
        for task in state.tasks.values():
            if tasks <= self.settings.in_memory and size <= self.settings.in_memory_bytes:
                break
            if not task.live and task.id not in state.dirty and state.forgettable(task):
                leaving.append(task)
                tasks -= 1
                size -= task.size
        state.forget(*leaving)
        for task in leaving:
            self.away[task.state.value] += 1
        self._stayed = _ended(state)

    def _retain(self, state: BrokerState, now: float) -> bool:
        """Delete some ended tasks, and results that nobody names, that are too old. True: more."""
        oldest = now - self.settings.retention
        gone: list[TaskRecord] = []
        away: dict[str, str] = {}
        for id, ended_as in self.store.expired(oldest, RETENTION_ROWS).items():
            task = state.tasks.get(id)
            if task is None:
                away[id] = ended_as
            elif id in state.dirty:
                continue  # the journal still speaks of it: it goes after the next fold
            elif task.ended is not None and task.ended < oldest and state.forgettable(task):
                gone.append(task)
        deletes = [*away, *(task.id for task in gone)]
        self._let_aliases_go(state, deletes, now)
        state.forget(*gone)
        if deletes:
            self.store.fold(self.store.epoch, deletes=deletes)
            self.away -= Counter(away.values())
        swept = self.store.sweep(_named(state), older_than=ORPHAN_AGE, limit=RETENTION_FILES)
        return len(deletes) == RETENTION_ROWS or swept == RETENTION_FILES

    def _let_aliases_go(self, state: BrokerState, ids: list[str], now: float) -> None:
        """Nobody closed what Titanic's clients know these tasks by, and now they are deleted."""
        if state.aliased.keys().isdisjoint(ids):
            return
        gone = set(ids)
        facts: list[Fact] = [Aliased(a, "") for a, id in state.aliases.items() if id in gone]
        self.append(facts, now)
        for fact in facts:
            state.apply(fact)

    def _sweep_checkpoints(self, state: BrokerState) -> bool:
        """Delete some checkpoints that newer ones replaced. True: more.

        Called between turns, when memory is what was committed: what it does not name no replay
        comes to. What a row still names, or a backup counts on, goes later, with the orphans.
        """
        if not self._saved:
            return False
        named = _named(state)
        replaced = list(self._saved - named)[:CHECKPOINT_FILES]
        if not replaced:
            return False
        self.store.sweep(named, older_than=0.0, limit=CHECKPOINT_FILES, among=replaced)
        self._saved.difference_update(replaced)
        return len(replaced) == CHECKPOINT_FILES

    def unfolded(self, state: BrokerState) -> set[str]:
        """Tasks that the tables do not hold as they are now; some may be in no row at all."""
        return state.dirty | {id for id in self._pass if id in state.tasks}

    def finish(self, state: BrokerState) -> None:
        """Fold everything, so that the next start is quick."""
        if not self._folding:
            self._pass, self._pass_lsn = list(state.dirty), self.lsn
            self._pass_bytes = self.journal_bytes
            state.dirty.clear()
            self._folding = self.journal_bytes > 0
        while self._folding:
            self._fold_some(state)

    def audit(self) -> Iterator[tuple[str, str, str]]:
        """Where the journal does not lead to what tables and blobs hold: (part, name, why).

        The parts are those of `broker.store.fsck`.
        """
        rows = {row.id: row for row in self.store.load().rows}
        try:
            state = self.load()
            state.check()
        except (AssertionError, KeyError, CorralError) as error:
            yield "replay", "journal", f"it cannot be replayed: {error!r}"
            return
        for id, row in rows.items():
            task = state.tasks[id]
            if id not in state.dirty and encode_record(state.record(task)) != row.record:
                yield "replay", id, "its row is not what its facts lead to"
        unfolded = [task for task in state.tasks.values() if task.id in state.dirty]
        needed = {blob: t.id for t in unfolded for blob in (t.blob, t.checkpoint) if blob}
        for blob, id in needed.items():  # those that no row names yet: the others have been read
            try:
                self.store.blob_get(blob)
            except (NotFound, StoreCorrupt) as error:
                yield "blob", blob, f"task {id} needs it: {error.message}"
            except OSError as error:
                yield "blob", blob, f"task {id} needs it: it cannot be read: {error.strerror}"


def _ended(state: BrokerState) -> tuple[int, int]:
    """How many ended tasks are in memory, and the bytes of what they carry."""
    return len(state.tasks) - state.unfinished, state.ended_bytes


def _named(state: BrokerState) -> set[str]:
    """The blobs that tasks in memory name."""
    return {blob for t in state.tasks.values() for blob in (t.blob, t.checkpoint) if blob}
