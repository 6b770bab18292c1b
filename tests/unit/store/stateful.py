"""The store against a model of plain dictionaries, for any engine. Bind it by `new_binding`.

Hypothesis invents the calls, kills and restarts included; after each of them every question is
asked of both.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.store import Row, Store
from tests.unit.store.conformance import Binding

IDS = [f"{letter}{number}" for letter in "ab" for number in range(6)]
BLOBS = [b"", b"small", b"x" * 70_000]


@st.composite
def rows(draw: st.DrawFn, blobs: list[str]) -> list[Row]:
    ids = draw(st.lists(st.sampled_from(IDS), unique=True, max_size=5))
    return [
        Row(
            id=id,
            state=draw(st.sampled_from(["queued", "running", "failed"])),
            live=draw(st.booleans()),
            kind=draw(st.sampled_from(["echo", "sleep"])),
            project=draw(st.sampled_from(["", "p"])),
            worker=draw(st.sampled_from(["", "w1", "w2"])),
            submitted=float(draw(st.integers(0, 3))),
            ended=draw(st.sampled_from([None, 0.0, 1.0, 2.0, 3.0, 4.0])),
            lsn=draw(st.integers(0, 20)),
            blobs=tuple(draw(st.lists(st.sampled_from(blobs), unique=True)) if blobs else ()),
            record=draw(st.sampled_from([b"", b"r", b"r" * 20_000])),
        )
        for id in ids
    ]


class StoreMachine(RuleBasedStateMachine):
    """Subclass it with `new_binding`, then let its `TestCase` be collected."""

    def new_binding(self) -> Binding:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.binding = self.new_binding()
        self.store: Store = self.binding.store()
        self.epoch = self.store.lead("model")
        self.journal: dict[int, bytes] = {}
        self.last = self.trimmed = self.state_lsn = 0
        self.state = b""
        self.rows: dict[str, Row] = {}
        self.blobs: dict[str, bytes] = {}

    @rule(entry=st.one_of(st.binary(max_size=40), st.sampled_from([b"e" * 5_000, b"e" * 90_000])))
    def append(self, entry: bytes) -> None:
        self.last += 1
        assert self.store.append(self.epoch, entry) == self.last
        self.journal[self.last] = entry

    @rule(
        data=st.data(),
        deletes=st.lists(st.sampled_from(IDS), max_size=2),
        state=st.one_of(st.none(), st.binary(max_size=9), st.just(b"s" * 30_000)),
        back=st.integers(0, 4),
        trim=st.booleans(),
    )
    def fold(
        self, data: st.DataObject, deletes: list[str], state: bytes | None, back: int, trim: bool
    ) -> None:
        given = data.draw(rows(sorted(self.blobs)))
        trim_to = max(0, self.last - back) if trim else 0
        self.store.fold(self.epoch, given, deletes, state, trim_to)
        self.rows |= {row.id: row for row in given}
        for id in deletes:
            self.rows.pop(id, None)
        if state is not None:
            self.state, self.state_lsn = state, self.last
        self.trimmed = max(self.trimmed, trim_to)
        self.journal = {lsn: entry for lsn, entry in self.journal.items() if lsn > self.trimmed}

    @rule(content=st.sampled_from(BLOBS))
    def put(self, content: bytes) -> None:
        self.blobs[self.store.blob_put(content)] = content

    @rule(data=st.data())
    def sweep(self, data: st.DataObject) -> None:
        kept = data.draw(st.lists(st.sampled_from(sorted(self.blobs)))) if self.blobs else []
        named = {*kept, *(digest for row in self.rows.values() for digest in row.blobs)}
        orphans = self.blobs.keys() - named
        assert self.store.sweep(kept, older_than=-1.0) == len(orphans)
        for digest in orphans:
            del self.blobs[digest]

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.take_over(self.binding.store())

    @rule()
    def kill(self) -> None:
        self.take_over(self.binding.kill(self.store))

    def take_over(self, store: Store) -> None:
        before, self.store = self.epoch, store
        self.epoch = store.lead("model")
        assert self.epoch == before + 1

    @invariant()
    def journal_is_the_model_s(self) -> None:
        assert list(self.store.read(0)) == sorted(self.journal.items())
        assert self.store.usage().journal_bytes == sum(map(len, self.journal.values()))
        middle = (self.trimmed + self.last) // 2
        assert (
            list(self.store.read(middle, limit=2))
            == [(lsn, entry) for lsn, entry in sorted(self.journal.items()) if lsn > middle][:2]
        )

    @invariant()
    def what_a_leader_starts_from_is_the_model_s(self) -> None:
        loaded = self.store.load()
        assert (loaded.state, loaded.state_lsn) == (self.state, self.state_lsn)
        assert (loaded.lsn, loaded.last) == (self.trimmed, self.last)
        assert {row.id: row for row in loaded.rows} == {
            id: row for id, row in self.rows.items() if row.live
        }

    @invariant()
    def answers_are_the_model_s(self) -> None:
        assert self.store.find(IDS) == self.rows
        assert self.store.prefix("a", limit=3) == sorted(id for id in self.rows if id < "b")[:3]
        newest = sorted(self.rows.values(), key=lambda row: (row.submitted, row.id), reverse=True)
        assert self.store.query() == newest
        failed = [row for row in newest if row.state == "failed" and row.worker == "w1"]
        assert self.store.query(["failed"], worker="w1", limit=2) == failed[:2]
        for row in newest[:1]:
            assert self.store.query(before=(row.submitted, row.id)) == newest[1:]
        over = {row.id: row.ended for row in newest if row.ended is not None and not row.live}
        expired = self.store.expired(3.0)
        assert set(expired) == {id for id, ended in over.items() if ended < 3}
        assert [over[id] for id in expired] == sorted(over[id] for id in expired)

    @invariant()
    def blobs_are_the_model_s(self) -> None:
        assert {digest: self.store.blob_get(digest) for digest in self.blobs} == self.blobs
        assert self.store.usage().blob_bytes == sum(map(len, self.blobs.values()))

    def teardown(self) -> None:
        self.store.close()
