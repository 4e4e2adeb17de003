"""`guideway.toml`: settings in a file, for whoever does not want them in the environment, which goes before it.

What a file says is put into the environment where that is silent, so that child processes and libraries see it too.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from guideway.delivery.connection.reading import FILE_VARIABLES, SECRET_VARIABLES, VARIABLES
from guideway.schemas.failures import FailureCode, Refusal
from guideway.schemas.nearest import did_you_mean, nearest

NAME: Final = "guideway.toml"
VARIABLE: Final = "GUIDEWAY_CONFIG"
_MAX_BYTES: Final = 1_000_000


class Setting(NamedTuple):
    """One of the variables of docs/settings.md."""

    variable: str
    kind: Literal["text", "path", "address", "integer", "switch"] = "text"
    """`path`: of this machine; `address`: a path or a URL; `switch`: on unless it is 0."""
    secret: bool = False

    @property
    def key(self) -> str:
        """Its name in the file."""
        return self.variable.removeprefix("GUIDEWAY_").lower()


SETTINGS: Final = (
    *(
        Setting(name, "path" if name in FILE_VARIABLES else "text", secret=name in SECRET_VARIABLES)
        for name in VARIABLES
    ),
    Setting("KAFKA_HOME", "path"),
    Setting("GUIDEWAY_HOME", "path"),
    Setting("GUIDEWAY_STORE", "address"),
    Setting("GUIDEWAY_ARTEFACT_CACHE_BYTES", "integer"),
    Setting("GUIDEWAY_BATCH_DAYS", "integer"),
    Setting("GUIDEWAY_EMBEDDING"),
    Setting("GUIDEWAY_QDRANT_URL"),
    Setting("GUIDEWAY_QDRANT_API_KEY", secret=True),
    Setting("GUIDEWAY_JWT_ISSUER"),
    Setting("GUIDEWAY_JWT_AUDIENCE"),
    Setting("GUIDEWAY_JWT_KEYS_URL"),
    Setting("GUIDEWAY_JWT_ALGORITHMS"),
    Setting("GUIDEWAY_JWT_CLAIM"),
    Setting("GUIDEWAY_EGRESS"),
    Setting("GUIDEWAY_SECRETS", "path"),
    Setting("GUIDEWAY_LOG_FORMAT"),
    Setting("GUIDEWAY_LOG_LEVEL"),
    Setting("GUIDEWAY_NATIVE", "switch"),
)
_BY_KEY: Final = {one.key: one for one in SETTINGS}


def load(environ: MutableMapping[str, str]) -> None:
    """Fill in what the environment does not say. Raises Refusal(invalid_setting), which names the file and the key."""
    for file in files(environ):
        for variable, value in read(file, named=bool(environ.get(VARIABLE, "").strip())).items():
            if not environ.get(variable, "").strip():
                environ[variable] = value


def files(environ: Mapping[str, str]) -> list[Path]:
    """Those that are read, what the first says goes before what the others say.

    The one that GUIDEWAY_CONFIG names; else `guideway.toml` in the present folder and in the user's configuration
    folder, `$XDG_CONFIG_HOME/guideway`, by default `~/.config/guideway`; those of them that are there.
    """
    if named := environ.get(VARIABLE, "").strip():
        return [Path(named).absolute()]
    users = environ.get("XDG_CONFIG_HOME", "").strip()
    folder = Path(users) if Path(users).is_absolute() else Path.home() / ".config"
    return [place for place in (Path(NAME).absolute(), folder / "guideway" / NAME) if os.path.lexists(place)]


def read(file: Path, *, named: bool = False) -> dict[str, str]:
    """Variable → value. named: by whoever runs us, so that it may be anybody's.

    Raises Refusal(invalid_setting).
    """
    try:
        with file.open("rb") as opened:
            found = os.fstat(opened.fileno())
            text = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _refused(file, f"cannot be read: {error.strerror or type(error).__name__}") from None
    if not named and found.st_uid not in (os.geteuid(), 0):
        # Whoever can put a file into a folder must not say what those run who come by.
        raise _refused(file, f"belongs to another user: if you trust it, name it in {VARIABLE}")
    if len(text) > _MAX_BYTES:
        raise _refused(file, f"is larger than {_MAX_BYTES:,} bytes: it holds settings only")
    try:
        said: dict[str, Any] = tomllib.loads(text.decode("utf-8-sig").replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise _refused(file, f"is not TOML: {error}") from None
    except UnicodeDecodeError as error:
        raise _refused(file, f"is not UTF-8 (byte {error.start}): convert it") from None
    except RecursionError:
        raise _refused(file, "is nested too deeply: a setting has one value") from None
    values = {}
    for key, value in said.items():
        setting = _BY_KEY.get(key)
        if setting is None:
            meant = did_you_mean(key.lower().removeprefix("guideway_"), _BY_KEY)
            raise _refused(file, f"says {key[:60]!r}, which is no setting: {meant}it has {', '.join(_BY_KEY)}")
        values[setting.variable] = _as_text(file, setting, value)
        if setting.secret and stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
            raise _refused(file, f"holds a secret ({key}) and can be read by others: chmod 600 {file}")
    return values


def misspelt(environ: Mapping[str, str]) -> list[str]:
    """Variables that are none of ours and look as if they were meant to be, each with the right one."""
    known = [*(one.variable for one in SETTINGS), VARIABLE]
    ours = [name for name in environ if name.startswith(("GUIDEWAY_", "KAFKA_")) and name not in known]
    near = {name: nearest(name, known, least=0.9) for name in sorted(ours)}
    return [f"{name} (did you mean {right}?)" for name, right in near.items() if right is not None]


def _as_text(file: Path, setting: Setting, value: Any) -> str:
    match setting.kind, value:
        case "switch", bool():
            return "1" if value else "0"
        case "integer", int() if not isinstance(value, bool):
            return str(value)
        case "path", str():
            # Relative to the file, not to wherever it is read from.
            return str(file.parent / Path(value).expanduser()) if value.strip() else ""
        case "address", str():
            return value if "://" in value or not value.strip() else str(file.parent / Path(value).expanduser())
        case "text", str() if "\0" not in value:
            return value
    wanted = {"switch": "true or false", "integer": "a whole number"}.get(setting.kind, "text in quotes")
    raise _refused(file, f"says {setting.key} = {str(value)[:60]!r}: give {wanted}")


def _refused(file: Path, why: str) -> Refusal:
    return Refusal(FailureCode.INVALID_SETTING, f"{file} {why}")
