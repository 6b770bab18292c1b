"""The torch families: two small networks and one training loop that can stop and go on.

The only file that imports torch. An epoch's order of rows depends on seed and epoch alone, so that
a fit that goes on from a saved state ends with the same bits as one that was never interrupted, on
as many CPU threads. (Some kernels of a GPU add in changing order.)
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corral.research.families import Lesson, Predict

Floats = npt.NDArray[np.float64]

BATCH = 256  #: rows


class Perceptron(nn.Module):
    """(rows, features) -> (rows,)"""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 32), nn.GELU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output.squeeze(-1)


class Recurrent(nn.Module):
    """(rows, window, features) -> (rows,), from the state after the last day of the window."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.memory = nn.LSTM(inputs, 16, batch_first=True)
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.memory(x)
        output: Tensor = self.head(states[:, -1])
        return output.squeeze(-1)


@dataclass(frozen=True)
class Architecture:
    """A network and how it is trained."""

    module: type[Perceptron] | type[Recurrent]
    epochs: int
    learning_rate: float
    weight_decay: float = 1e-3


MLP = Architecture(Perceptron, epochs=12, learning_rate=2e-3)
LSTM = Architecture(Recurrent, epochs=5, learning_rate=1e-2)


def fit(architecture: Architecture, lesson: Lesson) -> Predict:
    """Train on `lesson`, from its state on if it has one; tell `each_epoch` after every epoch."""
    torch.set_num_threads(lesson.threads)
    device = torch.device(lesson.device)
    with torch.random.fork_rng(devices=[]):  # the first weights depend on the seed alone
        torch.manual_seed(lesson.seed)
        network = architecture.module(lesson.x.shape[-1]).to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(), architecture.learning_rate, weight_decay=architecture.weight_decay
    )
    centre, scale = (0.0, 1.0) if lesson.classes else (lesson.y.mean(), lesson.y.std())
    x = torch.as_tensor(lesson.x, dtype=torch.float32, device=device)
    y = torch.as_tensor((lesson.y - centre) / scale, dtype=torch.float32, device=device)
    loss_of = nn.BCEWithLogitsLoss() if lesson.classes else nn.MSELoss()

    epochs = lesson.epochs or architecture.epochs
    for epoch in range(_restore(lesson.state, network, optimizer), epochs):
        total = 0.0
        order = np.random.default_rng((lesson.seed, epoch)).permutation(len(x))
        for start in range(0, len(x), BATCH):
            rows = torch.as_tensor(order[start : start + BATCH], device=device)
            optimizer.zero_grad()
            loss = loss_of(network(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        lesson.each_epoch(epoch + 1, epochs, total / len(x), _state(epoch + 1, network, optimizer))

    def predict(rows: Floats) -> Floats:
        with torch.no_grad():
            output = network(torch.as_tensor(rows, dtype=torch.float32, device=device))
            told = torch.sigmoid(output) if lesson.classes else output * scale + centre
        return told.cpu().numpy().astype(np.float64)

    return predict


def _state(epoch: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> bytes:
    buffer = io.BytesIO()
    state = {
        "epoch": epoch, "network": network.state_dict(), "optimizer": optimizer.state_dict()
    }  # fmt: skip
    torch.save(state, buffer)
    return buffer.getvalue()


def _restore(state: bytes, network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Put a saved state back; returns the number of epochs that were done."""
    if not state:
        return 0
    # tensors only, never code; the next attempt may have another device, or none
    saved = torch.load(io.BytesIO(state), weights_only=True, map_location="cpu")
    network.load_state_dict(saved["network"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["epoch"])
