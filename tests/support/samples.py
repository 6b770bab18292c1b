"""Random values of any message type, drawn from the type itself.

A new field or message is covered without a line here. What these values mean is no matter: they
are legal for the decoder, not for the broker.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

NAMES = ("alpha", "beta.2", "gamma-3", "delta", "corral", "x" * 200)
NUMBERS = (0, 1, -1, 2, 127, 128, 65_536, 2**31, -(2**63), 2**64 - 1)
REALS = (0.0, 1.0, -1.0, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))


def sample(kind: Any, source: random.Random, tame: bool = False) -> Any:
    """A random legal value of the type `kind`; `tame` ones are equal to themselves when decoded."""
    return _draw(_type_info(kind), source, tame)


_type_info = cache(inspect.type_info)


def _draw(info: inspect.Type, source: random.Random, tame: bool) -> Any:
    return _BY_TYPE[type(info)](info, source, tame)


def _struct(info: Any, source: random.Random, tame: bool) -> Any:
    values = {
        field.name: _draw(field.type, source, tame)
        for field in info.fields
        if field.required or source.random() < 0.6
    }
    return info.cls(**values)


def _union(info: Any, source: random.Random, tame: bool) -> Any:
    return _draw(source.choice(info.types), source, tame)


def _list(info: Any, source: random.Random, tame: bool) -> list[Any]:
    return [_draw(info.item_type, source, tame) for _ in range(_size(source))]


def _tuple(info: Any, source: random.Random, tame: bool) -> tuple[Any, ...]:
    if isinstance(info, inspect.TupleType):
        return tuple(_draw(each, source, tame) for each in info.item_types)
    return tuple(_list(info, source, tame))


def _dict(info: Any, source: random.Random, tame: bool) -> dict[Any, Any]:
    return {
        _draw(info.key_type, source, tame): _draw(info.value_type, source, tame)
        for _ in range(_size(source))
    }


def _size(source: random.Random) -> int:
    return source.choice((0, 1, 1, 2, 3))


def _int(info: Any, source: random.Random, tame: bool) -> int:
    least = -(2**63) if info.ge is None else info.ge
    most = 2**64 - 1 if info.le is None else info.le
    return source.choice([number for number in NUMBERS if least <= number <= most])


def _float(info: Any, source: random.Random, tame: bool) -> float:
    return source.choice(REALS[:4] if tame else REALS)


def _text(info: Any, source: random.Random, tame: bool) -> str:
    return source.choice((*NAMES, "", "two words", "é\x00\n", "#0"))


def _bytes(info: Any, source: random.Random, tame: bool) -> bytes:
    return source.randbytes(source.choice((0, 1, 16, 21)))


def _any(info: Any, source: random.Random, tame: bool) -> Any:
    return source.choice((None, True, 7, 0.5, "text", b"bytes", [1, [2]], {"a": {"b": 1}}))


def _raw(info: Any, source: random.Random, tame: bool) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(_any(info, source, tame)))


_BY_TYPE: dict[type[inspect.Type], Callable[[Any, random.Random, bool], Any]] = {
    inspect.StructType: _struct,
    inspect.UnionType: _union,
    inspect.ListType: _list,
    inspect.VarTupleType: _tuple,
    inspect.TupleType: _tuple,
    inspect.DictType: _dict,
    inspect.EnumType: lambda info, source, tame: source.choice(list(info.cls)),
    inspect.IntType: _int,
    inspect.FloatType: _float,
    inspect.StrType: _text,
    inspect.BytesType: _bytes,
    inspect.BoolType: lambda info, source, tame: source.random() < 0.5,
    inspect.NoneType: lambda info, source, tame: None,
    inspect.AnyType: _any,
    inspect.RawType: _raw,
}
