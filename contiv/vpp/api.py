"""Where API definitions come from: the project's own record, a VPP's installed files, or the VPP that runs.

``builtin_schema()`` is the compact record of VPP 26.06 (``api.json.gz``: names, fields, types, CRCs, services of the
modules that this project uses). It serves the emulator and compatibility reports, and a VPP whose own definitions
cannot be read. ``installed_schema(prefix)`` reads the files that a VPP installs; ``record`` writes the compact record
anew from such files. Next: ``contiv.vpp.client``, which picks the schema that fits the VPP's message table.
"""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from contiv.fastpath import Schema, SchemaError

RECORD: Final = Path(__file__).with_name("api.json.gz")
# VPP that the record was made from
RECORD_VERSION: Final = "26.06"
# where api files stand under an installation's prefix (VPP's packages use /usr)
API_DIR: Final = Path("share/vpp/api")
PREFIX_VARIABLE: Final = "CONTIV_VPP_PREFIX"
PREFIXES: Final = ("/opt/vpp", "/usr", "/usr/local")
MODULES: Final = (
    "acl",
    "af_packet",
    "af_xdp",
    "arp",
    "classify",
    "cnat",
    "dhcp",
    "feature",
    "fib",
    "gso",
    "interface",
    "ip",
    "ip6_nd",
    "ip_neighbor",
    "l2",
    "lcp",
    "memclnt",
    "nat44_ed",
    "ping",
    "punt",
    "session",
    "sr",
    "tapv2",
    "virtio",
    "vlib",
    "vpe",
    "vxlan",
)


def read_record() -> dict[str, Any]:
    """The record as it stands in the file: definitions in the form of one ``.api.json``."""
    found: dict[str, Any] = msgspec.json.decode(gzip.decompress(RECORD.read_bytes()))
    return found


@cache
def builtin_schema() -> Schema:
    """The record's schema; the same object each time."""
    return Schema([read_record()])


def find_prefix(prefix: str | os.PathLike[str] | None = None) -> Path | None:
    """The prefix of an installed VPP (``<prefix>/bin/vpp`` and ``<prefix>/share/vpp/api``): ``prefix`` itself, else
    CONTIV_VPP_PREFIX, /opt/vpp, the system's, or where PATH finds vpp; None when there is none."""
    named = prefix or os.environ.get(PREFIX_VARIABLE)
    candidates = [Path(named)] if named else [Path(path) for path in PREFIXES]
    on_path = shutil.which("vpp")
    if on_path and not named:
        candidates.append(Path(on_path).resolve().parent.parent)
    for candidate in candidates:
        if (candidate / "bin" / "vpp").exists() and (candidate / API_DIR).is_dir():
            return candidate
    return None


def installed_schema(prefix: str | os.PathLike[str] | None = None) -> Schema | None:
    """The schema of the files that a VPP installed, or None when none is installed. SchemaError."""
    found = find_prefix(prefix)
    return Schema.load(found / API_DIR) if found else None


def choose_schema(table: Mapping[str, int], *, prefix: str | os.PathLike[str] | None = None) -> Schema | None:
    """The definitions that fit a VPP's message table (``name_crc`` to number), or None when only VPP has them.

    Installed files fit when they explain every message of the table; the builtin record fits when none of its
    messages has another layout in that VPP (of other modules' messages it knows nothing).
    """
    installed = installed_schema(prefix)
    if installed is not None and unexplained(installed, table) == 0:
        return installed
    builtin = builtin_schema()
    found = {key.rpartition("_")[0]: key for key in table}
    if all(builtin.messages[name].key[:63] == key for name, key in found.items() if name in builtin.messages):
        return builtin
    return None


def reported_schema(text: str) -> Schema:
    """The schema of a VPP's answer to ``get_api_json``, which leaves out the messages of the connection itself.

    Those come from the record; their numbers are the same in every VPP. SchemaError.
    """
    try:
        reported = msgspec.json.decode(text.rstrip("\0"))
    except msgspec.DecodeError as error:
        raise SchemaError(f"get_api_json: {error}") from None
    if not isinstance(reported, list):
        raise SchemaError("get_api_json: no array of API definitions")
    known = {entry[0] for definition in reported for entry in definition.get("messages", ())}
    record = read_record()
    rest = [entry for entry in record["messages"] if entry[0] not in known]
    services = {name: service for name, service in record["services"].items() if name not in known}
    return Schema([*reported, {**record, "messages": rest, "services": services}])


def unexplained(schema: Schema, table: Iterable[str]) -> int:
    """How many messages of a table (``name_crc``) the schema does not define."""
    names = schema.messages
    return sum(names[n].key[:63] != key if (n := key.rpartition("_")[0]) in names else True for key in table)


def record(
    source: str | os.PathLike[str], *, target: Path = RECORD, modules: Sequence[str] = MODULES
) -> dict[str, Any]:
    """Write the compact record of ``modules`` from the folder ``source`` of ``.api.json`` files; what was written.

    SchemaError when a module is missing.
    """
    files = {file.name.removesuffix(".api.json"): file for file in Path(source).rglob("*.api.json")}
    missing = [module for module in modules if module not in files]
    if missing:
        raise SchemaError(f"{source}: no API definitions of {', '.join(missing)}")
    compact = merge(msgspec.json.decode(files[module].read_bytes()) for module in modules)
    Schema([compact])
    with target.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as stream:
        stream.write(msgspec.json.encode(compact))
    return compact


def merge(definitions: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One definition out of several: each type and message once, without comments and help texts."""
    kinds = ("enums", "enumflags", "unions", "types", "messages")
    merged: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    aliases: dict[str, Any] = {}
    services: dict[str, Any] = {}
    versions: dict[str, str] = {}
    for definition in definitions:
        versions[definition["module"]] = definition.get("options", {}).get("version", "")
        aliases |= definition["aliases"]
        services |= definition["services"]
        for kind in kinds:
            merged[kind] |= {entry[0]: [_facts(part) for part in entry] for entry in definition[kind]}
    return {
        "versions": versions,
        **{kind: [entry for _, entry in sorted(merged[kind].items())] for kind in kinds},
        "aliases": dict(sorted(aliases.items())),
        "services": dict(sorted(services.items())),
    }


def _facts(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kept = {key: value for key, value in part.items() if key in {"crc", "enumtype"}}
    options = {key: value for key, value in part.get("options", {}).items() if key in {"deprecated", "in_progress"}}
    return kept | ({"options": options} if options else {})
