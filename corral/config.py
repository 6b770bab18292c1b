"""From flags, environment and files to frozen settings; every value knows where it came from.

The first of these that names a key decides: flag, environment, ./corral.toml or ./corral.yaml,
~/.config/corral/config.toml or config.yaml, default. CORRAL_CONFIG names one file that stands for
both. A key is written `worker.slots`; in the environment CORRAL_WORKER_SLOTS. What the broker's
settings mean is told in `corral.settings`.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from msgspec import Struct

from corral.errors import BadConfig, Usage
from corral.settings import LEAST_MESSAGE, RESULT_LIMIT, BrokerSettings

Output = Literal["table", "json", "jsonl", "name"]


class WorkerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `worker`: what one agent offers. Times are seconds."""

    name: str = socket.gethostname()  #: stable over restarts, unique in the fleet
    slots: int = 1  #: attempts at once
    data: str = ".corral-worker"  #: folder of logs, spool and scratch space
    cpus: float = 0.0  #: cores it offers; 0: all that it may use
    memory_gb: float = 0.0  #: main memory it offers; 0: all that there is
    gpus: dict[str, float] = {}  #: declared GPUs, UUID -> GiB, beside those that NVML finds
    labels: dict[str, str] = {}
    caches: tuple[str, ...] = ()  #: names of data that is at hand here
    kinds: tuple[str, ...] = ()  #: handlers it serves; empty: every one that is installed
    drain_deadline: float = 30.0  #: at SIGTERM, until attempts are handed back
    spool_after: float = 2.0  #: run time from which a result is kept on disk until acknowledged


class GatewaySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `gateway`: the REST door."""

    bind: str = "127.0.0.1:8000"
    hosts: tuple[str, ...] = ()  #: names it goes by, beside its own address and localhost
    tokens: str = ""  #: table of bearer tokens; empty: none is needed, on loopback alone
    audit: str = ""  #: file that gets a line for each action; empty: stderr
    history: str = ""  #: file that remembers what was, for looking back; empty: nothing does
    history_retention: float = 604_800.0  #: seconds after which it forgets
    expect: str = ""  #: file of the workers that ought to be there, one name a line
    rate: float = 50.0  #: requests a second that one caller may make; bursts are let through
    streams: int = 100  #: pages at once
    max_body: int = 8 << 20  #: bytes


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be configured."""

    endpoints: tuple[str, ...] = ("tcp://127.0.0.1:5555",)  #: brokers, tried in this order
    key: str = ""  #: key file; empty: connect without one
    timeout: float = 10.0  #: seconds a call may stay unanswered
    project: str = ""  #: of tasks that name none
    output: Output = "table"
    broker: BrokerSettings = BrokerSettings()
    worker: WorkerSettings = WorkerSettings()
    gateway: GatewaySettings = GatewaySettings()


class Loaded(Struct, frozen=True):
    """Settings, and the origin of each value: dotted key -> flag, variable, file or default."""

    settings: Settings
    origins: dict[str, str]


SHORT = {
    "CORRAL_BROKER": "endpoints",
    "CORRAL_KEY": "key",
    "CORRAL_OUTPUT": "output",
}
_NOT_SETTINGS = {"CORRAL_CONFIG"}
_PATHS = {
    "key",
    "worker.data",
    "gateway.tokens",
    "gateway.audit",
    "gateway.history",
}  #: relative to the file that names them

# A number may be written with its unit. What a text means follows from the field's name and type.
LONGEST = 1e9  # seconds, 31 years: the wire takes none that is longer
MAX_SLOTS = 10_000  # the broker counts no more
_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_DURATION_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|[smhdw])")
_ENDPOINT = re.compile(r"ipc://\S+|tcp://(\[[^\s\[\]]+\]|[^\s:\[\]]+):(\d{1,5})")
_SIZE_WHOLE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?\s*", re.IGNORECASE)


def is_endpoint(text: str) -> bool:
    """Whether a broker may listen at it: tcp://HOST:PORT or ipc://PATH."""
    found = _ENDPOINT.fullmatch(text)
    return found is not None and text.isprintable() and int(found[2] or 1) < 1 << 16


def parse_duration(text: str) -> float:
    """Seconds in `10m`, `1h 30m`, `500ms` or a bare number.

    Raises:
        ValueError: it is no duration; says what one looks like.
    """
    try:
        seconds = float(text)
    except ValueError:
        parts = list(_DURATION_PART.finditer(text))
        if not parts or "".join(part.group() for part in parts).strip() != text.strip():
            raise ValueError(f"{text!r} is no duration; write 90, 10m or 1h 30m") from None
        seconds = sum(float(part[1]) * _DURATION[part[2]] for part in parts)
    if not 0 <= seconds < LONGEST:  # a NaN is not
        raise ValueError(f"{text!r} is no duration; write 90, 10m or 1h 30m")
    return seconds


def parse_size(text: str) -> int:
    """Bytes in `8GB`, `512 MiB` or a bare number. All units are powers of 1024.

    Raises:
        ValueError: it is no size; says what one looks like.
    """
    whole = _SIZE_WHOLE.fullmatch(text)
    if whole is None or ("." in whole[1] and not whole[2]):
        raise ValueError(f"{text!r} is no size; write 8GB, 512MB or a number of bytes")
    return int(float(whole[1]) * _SIZE[whole[2].lower()])


def parse_gib(text: str) -> float:
    """GiB in `8GB`, `512MB`, or in a bare number, which counts GiB.

    Raises:
        ValueError: it is no size.
    """
    try:
        return float(text)
    except ValueError:
        return parse_size(text) / (1 << 30)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


#: how a number is written when it is no whole one and no duration: by the last part of its key
_READ: dict[str, Callable[[str], float]] = {
    **dict.fromkeys(
        ("in_memory_bytes", "max_task_bytes", "max_message", "inline_result", "max_body"),
        parse_size,
    ),
    **dict.fromkeys(("cpus", "rate"), _number),
    "memory_gb": parse_gib,
}
_READ_AS: dict[Any, Callable[[str], float]] = {int: _whole, float: parse_duration}
_READ_INNER: dict[Any, Callable[[str], Any]] = {int: _whole, float: _number, str: str}


def _fields(struct: type[Struct], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, Struct):
            yield from _fields(field.type, f"{field.name}.")
        else:
            default = field.default
            yield (
                f"{prefix}{field.name}",
                field.type,
                (field.default_factory() if default is msgspec.NODEFAULT else default),
            )


_KNOWN = {key: (kind, default) for key, kind, default in _fields(Settings)}
_LONG = {f"CORRAL_{key.replace('.', '_').upper()}": key for key in _KNOWN}
VARIABLES = {**_LONG, **SHORT}  #: environment variable -> dotted key


def _value(key: str, raw: Any) -> Any:
    """`raw`, from any source, as the type of `key`. Raises ValueError with a reason."""
    kind, _ = _KNOWN[key]
    if isinstance(raw, str):
        raw = _from_text(key, kind, raw)
    elif get_origin(kind) is dict and isinstance(raw, dict) and key.endswith("gpus"):
        raw = {name: parse_gib(str(amount)) for name, amount in raw.items()}
    try:
        value = msgspec.convert(raw, kind)
    except msgspec.ValidationError as bad:
        if get_origin(kind) is Literal:
            raise ValueError(f"{raw!r} is none of {', '.join(get_args(kind))}") from None
        raise ValueError(str(bad).replace(" - at `$", " at `")) from None
    if isinstance(value, int | float) and not 0 <= value < math.inf:
        raise ValueError("must be a finite number of at least 0")
    return value


def _from_text(key: str, kind: Any, text: str) -> Any:
    if kind in (int, float):
        return _READ.get(key.rpartition(".")[2], _READ_AS[kind])(text)
    if get_origin(kind) is tuple:
        return [part for part in re.split(r"[,\s]+", text) if part]
    if get_origin(kind) is dict:
        pairs = [part.partition("=") for part in re.split(r"[,\s]+", text) if part]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"{text!r} is no list of NAME=VALUE")
        inner = get_args(kind)[1]
        return {
            name: parse_gib(amount) if key.endswith("gpus") else _READ_INNER[inner](amount)
            for name, _, amount in pairs
        }
    return text


class _File:
    """One configuration file: its flat keys and the line on which each stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as bad:
            why = bad.strerror if isinstance(bad, OSError) else "it is not UTF-8"
            raise BadConfig(file=path, key="(file)", why=f"it cannot be read: {why}") from None
        read = self._toml if path.suffix == ".toml" else self._yaml
        self.values, self._lines = read(text)

    def error(self, key: str, why: str) -> BadConfig:
        line = self._lines.get(key)
        return BadConfig(file=f"{self.path}:{line}" if line else self.path, key=key, why=why)

    def _toml(self, text: str) -> tuple[dict[str, Any], dict[str, int]]:
        import tomllib

        try:
            document = tomllib.loads(text)
        except RecursionError:
            raise BadConfig(file=self.path, key="(syntax)", why="nested too deep") from None
        except tomllib.TOMLDecodeError as bad:
            raise BadConfig(file=self.path, key="(syntax)", why=str(bad)) from None
        lines, section = {}, ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
                section = f"{header[1]}."
            elif name := re.match(r"\s*([\w.-]+)\s*=", line):
                lines[f"{section}{name[1]}"] = number
        return self._flat(document), lines

    def _yaml(self, text: str) -> tuple[dict[str, Any], dict[str, int]]:
        import yaml

        from corral.yamls import Loader

        try:
            document = yaml.load(text, Loader)
            root = yaml.compose(text, Loader=Loader)
        except RecursionError:
            raise BadConfig(file=self.path, key="(syntax)", why="nested too deep") from None
        except yaml.YAMLError as bad:
            mark = getattr(bad, "problem_mark", None)
            where = f"{self.path}:{mark.line + 1}" if mark else self.path
            why = getattr(bad, "problem", None) or str(bad)
            raise BadConfig(file=where, key="(syntax)", why=why) from None
        lines: dict[str, int] = {}

        def walk(node: yaml.Node | None, prefix: str) -> None:
            if isinstance(node, yaml.MappingNode):
                for name, value in node.value:
                    key, line = f"{prefix}{name.value}", name.start_mark.line + 1
                    if key in lines:
                        why = f"stands there twice, first on line {lines[key]}"
                        raise BadConfig(file=f"{self.path}:{line}", key=key, why=why)
                    lines[key] = line
                    walk(value, f"{key}.")

        walk(root, "")
        return self._flat(document if document is not None else {}), lines

    def _flat(self, document: Any) -> dict[str, Any]:
        if not isinstance(document, dict):
            raise BadConfig(file=self.path, key="(file)", why="it must be a mapping of settings")
        flat: dict[str, Any] = {}
        for name, value in document.items():
            if name in ("broker", "gateway", "worker") and isinstance(value, dict):
                flat.update({f"{name}.{inner}": amount for inner, amount in value.items()})
            else:
                flat[str(name)] = value
        return flat


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, _KNOWN, n=1)
    return f"there is no such setting{f'; did you mean {near[0]}?' if near else ''}"


def _files(environment: Mapping[str, str], folder: Path, home: Path) -> list[Path]:
    """The files that count, the stronger one last."""
    if named := environment.get("CORRAL_CONFIG"):
        return [folder / Path(named).expanduser()]
    found = []
    own = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "corral" / "config"
    for stem in (own, folder / "corral"):
        there = [path for path in map(stem.with_suffix, (".toml", ".yaml")) if path.is_file()]
        if len(there) > 1:
            raise BadConfig(file=there[0], key="(file)", why=f"{there[1]} is there too; keep one")
        found += there
    return found


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    folder: Path,
    home: Path,
) -> Loaded:
    """Settings from every source.

    Args:
        flags: dotted key -> value of the options that were given.
        environment: the process environment.
        folder: where ./corral.toml is looked for, and what relative paths of flags start from.
        home: the user's home folder.

    Raises:
        BadConfig: names file and key, and for files the line.
        Usage: a flag has a value that it cannot have.
    """
    values = {key: default for key, (_, default) in _KNOWN.items()}
    origins = dict.fromkeys(_KNOWN, "default")

    for path in _files(environment, folder, home):
        file = _File(path)
        for key, raw in file.values.items():
            if key not in _KNOWN:
                raise file.error(key, _unknown(key))
            try:
                values[key] = _value(key, raw)
            except ValueError as bad:
                raise file.error(key, str(bad)) from None
            if key in _PATHS and values[key]:
                values[key] = str(path.parent / Path(values[key]).expanduser())
            origins[key] = str(path)

    for variable in sorted(environment):
        if not variable.startswith("CORRAL_") or variable in _NOT_SETTINGS:
            continue
        if (known := VARIABLES.get(variable)) is None:
            continue  # other programs of the family have variables of their own
        if not (text := environment[variable]):
            continue
        try:
            values[known] = _value(known, text)
        except ValueError as bad:
            raise BadConfig(file="environment", key=variable, why=str(bad)) from None
        origins[known] = variable

    for key, raw in flags.items():
        try:
            values[key] = _value(key, raw)
        except ValueError as bad:
            raise Usage(what=f"--{key.rpartition('.')[2].replace('_', '-')}: {bad}") from None
        origins[key] = "flag"

    _check(values, origins)
    return Loaded(msgspec.convert(_nested(values), Settings), origins)


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def _check(values: Mapping[str, Any], origins: Mapping[str, str]) -> None:
    """What no single value can show."""
    order = ("heartbeat", "suspect_after", "unavailable_after", "gone_after")
    for sooner, later in itertools.pairwise(order):
        key = f"broker.{later}"
        if values[key] <= values[f"broker.{sooner}"]:
            why = (
                f"{values[key]:g} s must be longer than {sooner}, {values[f'broker.{sooner}']:g} s"
            )
            raise BadConfig(file=origins[key], key=key, why=why)
    for key in ("broker.heartbeat", "timeout", "worker.slots"):
        if not values[key]:
            raise BadConfig(file=origins[key], key=key, why="must be above 0")
    if values["worker.slots"] > MAX_SLOTS:
        why = f"must be at most {MAX_SLOTS}"
        raise BadConfig(file=origins["worker.slots"], key="worker.slots", why=why)
    if (given := values["broker.max_message"]) < LEAST_MESSAGE:
        why = (
            f"{given} bytes must be at least {_mib(LEAST_MESSAGE)}:"
            f" a result of {_mib(RESULT_LIMIT)} could never arrive"
        )
        raise BadConfig(file=origins["broker.max_message"], key="broker.max_message", why=why)
    for endpoint in values["endpoints"]:
        if not is_endpoint(endpoint):
            why = f"{endpoint!r} is no endpoint; write tcp://HOST:PORT"
            raise BadConfig(file=origins["endpoints"], key="endpoints", why=why)
    if not values["endpoints"]:
        raise BadConfig(file=origins["endpoints"], key="endpoints", why="names no broker")


def _mib(size: int) -> str:
    return f"{size >> 20}MiB"
