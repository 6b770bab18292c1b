"""The committed prices: what they are, that they are unchanged, and that they are adjusted."""

from __future__ import annotations

import gzip
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from msgspec.structs import replace

from corral.errors import MissingExtra
from corral.research import datasets
from corral.research.data import make_wiki_prices
from corral.research.schema import SYMBOLS

WIKI = datasets.REGISTRY[0]
PROVENANCE = (datasets.DATA / "PROVENANCE.md").read_text()


def raw(symbol: str) -> pd.DataFrame:
    lines = datasets.read(WIKI).decode().splitlines()
    rows = [line.split(",") for line in lines[1:] if line.startswith(f"{symbol},")]
    frame = pd.DataFrame(rows, columns=lines[0].split(",")).drop(columns="Ticker")
    return frame.set_index(pd.to_datetime(frame.pop("Date"))).astype(float)


def test_the_registry_tells_what_the_file_holds() -> None:
    rows = [line.split(",") for line in datasets.read(WIKI).decode().splitlines()[1:]]
    days = [row[1] for row in rows]
    assert (len(rows), min(days), max(days)) == (WIKI.rows, WIKI.first, WIKI.last)
    assert {row[0] for row in rows} == set(WIKI.symbols) == set(SYMBOLS)
    assert (datasets.DATA / WIKI.file).stat().st_size < 300_000


def test_provenance_names_source_hashes_licence_and_command() -> None:
    content = datasets.read(WIKI)
    for fact in (
        WIKI.sha256,
        make_wiki_prices.sha256(content).hexdigest(),
        make_wiki_prices.SOURCE,
        make_wiki_prices.SOURCE_SHA256,
        "License: `Public Domain`",
        "bokeh_sampledata==2026.1",
        "python corral/research/data/make_wiki_prices.py",
    ):
        assert fact in PROVENANCE


def test_the_script_makes_equal_bytes_from_equal_input_and_keeps_the_rows() -> None:
    source = gzip.compress(datasets.read(WIKI) + b"FB,2012-05-18,1,1,1,1,1,1\n", mtime=123)
    packed = make_wiki_prices.extract(source)
    assert packed == make_wiki_prices.extract(source)
    assert packed[3:8] == bytes(5), "neither a name nor a time in the header"
    assert gzip.decompress(packed) == datasets.read(WIKI)


def test_the_script_refuses_other_columns() -> None:
    with pytest.raises(ValueError, match="Ticker,Date,Open"):
        make_wiki_prices.extract(gzip.compress(b"a,b\n1,2\n"))


def test_a_changed_file_is_refused(tmp_path: object) -> None:
    folder = datasets.Path(str(tmp_path))
    packed = bytearray((datasets.DATA / WIKI.file).read_bytes())
    packed[1000] ^= 1
    (folder / WIKI.file).write_bytes(packed)
    with pytest.raises(datasets.DataChanged, match=WIKI.sha256) as caught:
        datasets.read(WIKI, folder)
    assert "git checkout" in caught.value.cure


def test_the_snapshot_follows_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = datasets.snapshot()
    assert before == datasets.snapshot()
    monkeypatch.setattr(datasets, "REGISTRY", (replace(WIKI, sha256="0" * 64),))
    assert datasets.snapshot() != before


def test_a_split_is_no_crash() -> None:
    """Apple split two for one on 2000-06-21: the raw price halves, the adjusted one does not."""
    day = pd.Timestamp("2000-06-21")
    before, after = (raw("AAPL")["Close"].pct_change()[day], datasets.prices("AAPL")["close"])
    assert before < -0.4
    assert abs(after.pct_change()[day]) < 0.12


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_prices_are_adjusted_alike(symbol: str) -> None:
    adjusted, plain = datasets.prices(symbol), raw(symbol)
    np.testing.assert_array_equal(adjusted["close"], plain["Adj Close"])
    np.testing.assert_allclose(
        adjusted["open"] / adjusted["close"], plain["Open"] / plain["Close"], rtol=1e-12
    )
    np.testing.assert_allclose(
        adjusted["close"] * adjusted["volume"], plain["Close"] * plain["Volume"], rtol=1e-12
    )
    inside = adjusted[["open", "close"]]
    assert (inside.max(axis=1) <= adjusted["high"] * (1 + 1e-9)).all()
    assert (inside.min(axis=1) >= adjusted["low"] * (1 - 1e-9)).all()
    assert adjusted.index.is_monotonic_increasing
    assert adjusted.index.is_unique
    assert np.isfinite(adjusted).all(axis=None)


def test_dividends_count() -> None:
    """IBM paid dividends all the time, so holding it brought more than its price shows."""
    adjusted, plain = datasets.prices("IBM")["close"], raw("IBM")["Close"]
    assert adjusted.iloc[-1] / adjusted.iloc[0] > 1.15 * plain.iloc[-1] / plain.iloc[0]


def test_nobody_can_spoil_the_prices_of_the_next() -> None:
    mine = datasets.prices("IBM")
    mine["close"] = 0.0
    assert (datasets.prices("IBM")["close"] > 0).all()


def test_an_unknown_symbol_is_answered_with_the_known() -> None:
    with pytest.raises(datasets.UnknownSymbol) as caught:
        datasets.prices("XYZ")
    assert all(symbol in caught.value.cure for symbol in SYMBOLS)


def test_a_missing_library_names_the_pip_command() -> None:
    code = """
import sys
sys.modules["pandas"] = None
from corral.errors import MissingExtra
from corral.research import datasets
try:
    datasets.prices("IBM")
except MissingExtra as error:
    print(error, error.cure)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pandas" in done.stdout
    assert "pip install 'corral[research]'" in done.stdout


def test_a_missing_module_of_corral_itself_is_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError), datasets.research_extra():
        raise ModuleNotFoundError("No module", name="corral.research.gone")
    with pytest.raises(MissingExtra), datasets.research_extra():
        raise ModuleNotFoundError("No module", name="torch.nn")
