"""The registry of price data: what is committed, under which licence, with which hash.

`prices` gives one symbol, verified and adjusted. Where the data comes from is told in
data/PROVENANCE.md; what is computed from it lives in `features` and `targets`.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from corral.errors import CorralError, MissingExtra

if TYPE_CHECKING:
    import pandas as pd

DATA = Path(__file__).with_name("data")


class Dataset(Struct, frozen=True):
    """One committed file."""

    name: str
    file: str  #: inside `DATA`
    sha256: str  #: of the file as it is committed
    licence: str
    source: str
    symbols: tuple[str, ...]
    first: str  #: ISO date of the first row
    last: str  #: ISO date of the last row
    rows: int


REGISTRY = (
    Dataset(
        name="wiki-prices",
        file="wiki-prices.csv.gz",
        sha256="47bd18eeac803bdf21a55876554ef99558f715baa7cdc86b5e0252532e4e3a95",
        licence="public domain",
        source="Quandl WIKI Prices, from stocks.csv.gz of the PyPI package bokeh_sampledata 2026.1",
        symbols=("AAPL", "GOOG", "IBM", "MSFT"),
        first="2000-03-01",
        last="2013-03-01",
        rows=11_958,
    ),
)


class DataChanged(CorralError):
    """The price file {file} has sha256 {found}, but the registry says {expected}.

    Restore it with `git checkout {file}`, or install Corral again.
    """

    code = "data_changed"


class UnknownSymbol(CorralError):
    """There are no prices for {symbol}.

    Known symbols: {known}.
    """

    code = "unknown_symbol"
    exit_status = 2


@contextmanager
def research_extra() -> Iterator[None]:
    """Imports of numerical libraries inside this block name the pip command when one is missing.

    Raises:
        MissingExtra: a module of the extra `research` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "corral":
            raise
        raise MissingExtra(extra="research", module=error.name) from error


def snapshot() -> str:
    """A digest of all registered data. `prices` refuses files that do not fit it."""
    entries = sorted(f"{dataset.name} {dataset.sha256}\n" for dataset in REGISTRY)
    return sha256("".join(entries).encode()).hexdigest()


def read(dataset: Dataset, folder: Path = DATA) -> bytes:
    """The decompressed CSV of `dataset`.

    Raises:
        DataChanged: the file is not the one that the registry describes.
    """
    path = folder / dataset.file
    packed = path.read_bytes()
    found = sha256(packed).hexdigest()
    if found != dataset.sha256:
        raise DataChanged(file=path, found=found, expected=dataset.sha256)
    return gzip.decompress(packed)


def prices(symbol: str) -> pd.DataFrame:
    """Daily open, high, low, close, volume of `symbol`, adjusted for splits and dividends.

    Indexed by day, oldest first. Prices are scaled so that close is the source's adjusted close,
    and volume so that price times volume is still the money that changed hands. The scale of a day
    depends on later splits and dividends, so only ratios of prices may enter a feature.

    Raises:
        UnknownSymbol: no data set has it.
        DataChanged: the file is not the registered one.
        MissingExtra: pandas is not installed.
    """
    dataset = next((dataset for dataset in REGISTRY if symbol in dataset.symbols), None)
    if dataset is None:
        known = ", ".join(symbol for dataset in REGISTRY for symbol in dataset.symbols)
        raise UnknownSymbol(symbol=symbol, known=known)
    return _adjusted(dataset)[symbol].copy()


@cache
def _adjusted(dataset: Dataset) -> dict[str, pd.DataFrame]:
    with research_extra():
        import pandas as pd

    raw = pd.read_csv(io.BytesIO(read(dataset)), parse_dates=["Date"], index_col="Date")
    return {str(symbol): adjust(frame) for symbol, frame in raw.groupby("Ticker")}


def adjust(raw: pd.DataFrame) -> pd.DataFrame:
    """Raw columns Open, High, Low, Close, Volume, Adj Close to adjusted open ... volume."""
    scale = raw["Adj Close"] / raw["Close"]
    adjusted = raw[["Open", "High", "Low"]].mul(scale, axis=0)
    adjusted["Close"] = raw["Adj Close"]
    adjusted["Volume"] = raw["Volume"] / scale
    return adjusted.rename(columns=str.lower)
