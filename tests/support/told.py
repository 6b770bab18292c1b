"""Reading the JSON that Corral writes back into the structs it was made of.

Every field has to be there as its struct says. What is written, and how, is `corral.jsons`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from corral.jsons import as_written


def told(data: bytes | str, kind: Any) -> Any:
    """The `kind` that `data` tells of.

    Raises:
        msgspec.ValidationError: it does not.
    """
    written = msgspec.json.decode(data, type=as_written(kind))
    return msgspec.convert(written, kind, from_attributes=True)
