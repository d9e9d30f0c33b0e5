"""VPP's startup.conf, as far as the emulated VPP obeys it: where its sockets are, and how access lists keep sessions.
Everything else is read and ignored.

The same file starts either of the two, so unknown sections are no error; unbalanced braces are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import msgspec

from contiv.errors import ConfigError

RUNTIME_DIR: Final = "/run/vpp"


class Startup(msgspec.Struct, frozen=True, kw_only=True):
    """The settings in force."""

    runtime_dir: str = RUNTIME_DIR
    api_socket: str = f"{RUNTIME_DIR}/api.sock"
    cli_socket: str = f"{RUNTIME_DIR}/cli.sock"
    reclassify_sessions: bool = False
    """``acl-plugin { reclassify sessions 1 }``."""


def parse(text: str) -> Startup:
    """The settings in a startup.conf. ConfigError when its braces do not match."""
    sections = _sections(text)
    unix, socksvr = sections.get("unix", []), sections.get("socksvr", [])
    runtime_dir = _value(unix, "runtime-dir", RUNTIME_DIR)
    return Startup(
        runtime_dir=runtime_dir,
        api_socket=_value(socksvr, "socket-name", f"{runtime_dir}/api.sock"),
        cli_socket=_value(unix, "cli-listen", f"{runtime_dir}/cli.sock"),
        reclassify_sessions=_value(sections.get("acl-plugin", []), "sessions", "0") != "0",
    )


def _sections(text: str) -> dict[str, list[str]]:
    """The words of each outermost section; nested braces are words of it."""
    lines = (line.partition("#")[0] for line in text.splitlines())
    words = " ".join(lines).replace("{", " { ").replace("}", " } ").split()
    sections: dict[str, list[str]] = {}
    name, depth = "", 0
    for word in words:
        if word == "{":
            depth += 1
        elif word == "}":
            depth -= 1
        elif depth == 0:
            name = word
        else:
            sections.setdefault(name, []).append(word)
        if depth < 0:
            break
    if depth:
        raise ConfigError("startup.conf", name, "braces do not match", remedy="close every section with }")
    return sections


def _value(words: list[str], key: str, default: str) -> str:
    found = [value for name, value in pairwise(words) if name == key]
    return default if not found or found[-1] == "default" else found[-1]
