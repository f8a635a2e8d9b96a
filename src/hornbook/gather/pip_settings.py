"""The package indexes that the user's pip (or uv) is set to.

In: environment variables and pip's configuration files, in the places and the order of precedence
that pip documents (https://pip.pypa.io/en/stable/topics/configuration/). Out: index addresses,
certificates, proxy. pip itself need not be installed.
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hornbook.errors import HornbookError

PUBLIC_INDEX = "https://pypi.org/simple"

_SECTIONS = ("global", "download")
_TRUE = ("1", "true", "yes", "on", "y", "t")


@dataclass(frozen=True)
class PipSettings:
    """What decides where packages come from.

    Args:
        indexes: addresses of simple indexes (http, https or file), in the order to try them.
        certificate: certificate authorities to trust besides the system's.
        proxy: proxy for all requests.
    """

    indexes: tuple[str, ...]
    certificate: Path | None = None
    proxy: str | None = None


def read_pip_settings(environment: Mapping[str, str] = os.environ) -> PipSettings:
    """Read pip's settings; where pip has no index of its own, uv's; else the public index."""
    values: dict[str, str] = {}
    for path in config_files(environment):
        values |= _read_config(path)
    for name, value in environment.items():
        if name.startswith("PIP_") and value:
            values[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    indexes: list[str] = []
    if values.get("no-index", "").lower() not in _TRUE:
        first = values.get("index-url") or _uv_index(environment) or PUBLIC_INDEX
        indexes = [first, *values.get("extra-index-url", "").split(), *_uv_extra(environment)]
    certificate = values.get("cert")
    return PipSettings(
        tuple(dict.fromkeys(index.rstrip("/") for index in indexes)),
        Path(certificate).expanduser() if certificate else None,
        values.get("proxy"),
    )


def config_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Where pip looks for its configuration, the strongest last."""
    own = environment.get("PIP_CONFIG_FILE")
    if own == os.devnull:  # pip's way to say: none at all
        return []
    home = Path(environment.get("HOME") or Path.home())
    if sys.platform == "win32":
        name = "pip.ini"
        everyone = [Path(environment.get("PROGRAMDATA", "C:/ProgramData"), "pip", name)]
        user = [home / "pip" / name, Path(environment.get("APPDATA", home), "pip", name)]
    else:
        name = "pip.conf"
        folders = (environment.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)
        everyone = [Path(folder, "pip", name) for folder in folders if folder]
        everyone += [Path("/Library/Application Support/pip", name), Path("/etc", name)]
        user = [
            home / ".pip" / name,
            Path(environment.get("XDG_CONFIG_HOME") or home / ".config", "pip", name),
            home / "Library/Application Support/pip" / name,
        ]
    site = [Path(sys.prefix, name)]
    if own and Path(own).exists():  # takes the place of the user's files
        return [*everyone, *site, Path(own)]
    return [*everyone, *user, *site]


def _uv_index(environment: Mapping[str, str]) -> str:
    index = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL") or ""
    return _unnamed(index)


def _uv_extra(environment: Mapping[str, str]) -> list[str]:
    extra = f"{environment.get('UV_INDEX', '')} {environment.get('UV_EXTRA_INDEX_URL', '')}"
    return [_unnamed(index) for index in extra.split()]


def _unnamed(index: str) -> str:
    """uv lets an index have a name: `name=https://...`."""
    name, equals, address = index.partition("=")
    return address if equals and "://" not in name else index


def _read_config(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise HornbookError(
            f"is not readable as pip's configuration ({str(error).splitlines()[0]})",
            where=path,
            hint="Mend it (`pip config list` shows what pip reads), or use --text PATH",
        ) from error
    values: dict[str, str] = {}
    for section in _SECTIONS:
        if parser.has_section(section):
            values |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    return values
