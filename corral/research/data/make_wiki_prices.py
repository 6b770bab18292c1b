"""Makes wiki-prices.csv.gz, the committed price file, from the wheel of bokeh_sampledata 2026.1.

    pip download --no-deps bokeh_sampledata==2026.1
    python corral/research/data/make_wiki_prices.py bokeh_sampledata-2026.1-py3-none-any.whl

The rows of four companies are copied as they are; `corral.research.datasets` adjusts them when it
loads them. Nothing of Corral imports this file; it is run when the data changes.
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

SOURCE = "bokeh_sampledata/_data/stocks.csv.gz"  # path inside the wheel
SOURCE_SHA256 = "5abadf99b2d394f920120a27de6f0df129859d71d4cfb0bf661bcc99446ab1fd"
SYMBOLS = ("AAPL", "GOOG", "IBM", "MSFT")
HEADER = "Ticker,Date,Open,High,Low,Close,Volume,Adj Close"


def extract(source: bytes) -> bytes:
    """The rows of `SYMBOLS` in `source` (a gzipped CSV), sorted by symbol and date, gzipped again.

    Equal input gives equal bytes: the gzip header carries neither name nor time.
    """
    header, *rows = gzip.decompress(source).decode("ascii").splitlines()
    if header != HEADER:
        raise ValueError(f"the columns are {header!r}, expected {HEADER!r}")
    kept = sorted(row for row in rows if row.partition(",")[0] in SYMBOLS)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=packed, mtime=0) as out:
        out.write("\n".join([header, *kept, ""]).encode("ascii"))
    return packed.getvalue()


def main(wheel: str) -> None:
    """Write wiki-prices.csv.gz beside this file and print both hashes."""
    source = zipfile.ZipFile(wheel).read(SOURCE)
    if sha256(source).hexdigest() != SOURCE_SHA256:
        raise SystemExit(f"{wheel}: {SOURCE} is not the file of bokeh_sampledata 2026.1")
    packed = extract(source)
    target = Path(__file__).with_name("wiki-prices.csv.gz")
    target.write_bytes(packed)
    print(f"{target.name}: {len(packed)} bytes, sha256 {sha256(packed).hexdigest()}")
    print(f"decompressed: sha256 {sha256(gzip.decompress(packed)).hexdigest()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {Path(__file__).name} bokeh_sampledata-2026.1-py3-none-any.whl")
    main(sys.argv[1])
