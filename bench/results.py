"""What one run measured, by round, and the ratios within its rounds. Nothing is judged here."""

from __future__ import annotations

from dataclasses import dataclass, field

from bench.peers import FSYNC, PEERS
from bench.profiles import Share

Round = dict[str, float]


@dataclass
class Run:
    """Everything that one run measured."""

    command: str
    started: str
    quick: bool
    machine: dict[str, str | float]
    # peer -> one entry per round; round n of every peer belongs together
    peers: dict[str, list[Round]] = field(default_factory=dict)
    # figure of Corral alone -> its numbers
    figures: dict[str, Round] = field(default_factory=dict)
    # measurement that missed a bound -> where its time went, from a run of its own
    profiles: dict[str, list[Share]] = field(default_factory=dict)

    def series(self, peer: str, number: str) -> list[float]:
        """Returns a number of a peer by round; empty if it was not measured."""
        return [entry[number] for entry in self.peers.get(peer, []) if number in entry]

    def figure(self, name: str, number: str) -> list[float]:
        """Returns a number of a figure, as a series of one; empty if it was not measured."""
        return [self.figures[name][number]] if name in self.figures else []

    def ratios(self, peer: str, other: str, number: str) -> list[float]:
        """Returns one peer's number over another's, within each round."""
        return _divided(self.series(peer, number), self.series(other, number))

    def over_best_durable(self, peer: str) -> list[float]:
        """Returns a peer's throughput over the best other that syncs always, in each round."""
        rivals = [
            self.series(name, "tasks_per_s")
            for name, facts in PEERS.items()
            if facts.keeps == FSYNC and not facts.ours and name in self.peers
        ]
        best = [max(rates) for rates in zip(*rivals, strict=True)]
        return _divided(self.series(peer, "tasks_per_s"), best)


def _divided(upper: list[float], lower: list[float]) -> list[float]:
    return (
        [above / below for above, below in zip(upper, lower, strict=True)]
        if upper and lower
        else []
    )
