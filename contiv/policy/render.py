"""Access lists as desired keys: one ``vpp/acl`` for each different table, one ``vpp/acl-interface`` for each interface.

Pure. ``desired`` gives all keys, ``Rendered`` those that change from one state to the next. Equal tables are one
access list, counted by the interfaces that name it. The order in VPP follows from what names what: lists are made,
then interfaces switched, each at once, then lists deleted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from contiv.fastpath import acl
from contiv.model import vpp
from contiv.policy.tables import Lists

Value = vpp.Acl | vpp.AclInterface


def desired(lists: Mapping[str, Lists]) -> dict[str, Value]:
    """All keys of these interfaces' lists."""
    found: dict[str, Value] = {}
    for interface, each in lists.items():
        found[vpp.acl_interface_key(interface)] = _bound(interface, each)
        for table in (*each.input, *each.output):
            found.setdefault(vpp.acl_key(table.name), vpp.Acl(name=table.name, rules=table.wire))
    return found


class Rendered:
    """What has been rendered, so that the next change says only what is new."""

    def __init__(self) -> None:
        self._lists: dict[str, Lists] = {}
        self._uses: Counter[str] = Counter()

    def replace(self, lists: Mapping[str, Lists]) -> dict[str, Value]:
        """Start over from these lists; all keys."""
        self._lists = dict(lists)
        self._uses = Counter(table.name for each in lists.values() for table in _named(each))
        return desired(lists)

    def change(self, interfaces: Iterable[str], lists: Mapping[str, Lists]) -> dict[str, Value | None]:
        """The keys that change when the ``interfaces`` have these lists now, or are not in them any more."""
        changes: dict[str, Value | None] = {}
        left: set[str] = set()
        for interface in interfaces:
            before, after = self._lists.pop(interface, None), lists.get(interface)
            if after is not None:
                self._lists[interface] = after
                for table in _named(after):
                    if not self._uses[table.name]:
                        changes[vpp.acl_key(table.name)] = vpp.Acl(name=table.name, rules=table.wire)
                    self._uses[table.name] += 1
            if before is not None:
                for table in _named(before):
                    self._uses[table.name] -= 1
                    left.add(table.name)
            if before != after:
                changes[vpp.acl_interface_key(interface)] = None if after is None else _bound(interface, after)
        for name in left:
            if not self._uses[name]:
                del self._uses[name]
                changes[vpp.acl_key(name)] = None
        return changes


def _named(lists: Lists) -> tuple[acl.Table, ...]:
    return (*lists.input, *lists.output)


def _bound(interface: str, lists: Lists) -> vpp.AclInterface:
    return vpp.AclInterface(
        interface=interface,
        input=tuple(table.name for table in lists.input),
        output=tuple(table.name for table in lists.output),
    )
