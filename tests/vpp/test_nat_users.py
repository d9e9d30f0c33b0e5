"""Which backends several mappings share: VPP ends sessions by address and port alone."""

from __future__ import annotations

from contiv.model import vpp as model
from contiv.model.ip import Address
from contiv.vpp.descriptors.nat_users import Users

TCP, UDP = 6, 17
RED, GREEN = bytes((10, 1, 1, 2, 0, 53)), bytes((10, 1, 1, 3, 0, 53))
TAIL = bytes((1, 0, 0, 0, 0))


def mapping(number: int, *backends: bytes, protocol: int = TCP, label: str = "") -> model.NatMapping:
    """A service at 10.96.0.``number``."""
    address = Address.parse(f"10.96.0.{number}")
    records = b"".join(backend + TAIL for backend in backends)
    return model.NatMapping(
        address=address, port=53, protocol=protocol, backends=records, label=label or f"default/s{number}"
    )


def users_of(*mappings: model.NatMapping) -> tuple[Users, list[str]]:
    """All of them put in, and their keys."""
    users = Users()
    users.replace({model.key_of(mappings[0]): mappings[0]})
    for each in mappings[1:]:
        users.put(model.key_of(each), each)
    return users, [model.key_of(each) for each in mappings]


def test_a_backend_of_two_services_is_shared_until_one_gives_it_up() -> None:
    users, (first, second) = users_of(mapping(1, RED, GREEN), mapping(2, RED))
    assert users.shared(first, {RED, GREEN}) == {RED}
    users.put(second, mapping(2, GREEN))
    assert users.shared(first, {RED, GREEN}) == {GREEN}
    users.drop(second)
    assert users.shared(first, {RED, GREEN}) == set()


def test_a_backend_of_two_protocols_is_shared_for_vpp_does_not_tell_them_apart() -> None:
    users, (first, second) = users_of(mapping(1, RED), mapping(2, RED, protocol=UDP))
    assert users.shared(first, {RED}) == users.shared(second, {RED}) == {RED}


def test_mappings_of_one_service_count_as_one() -> None:
    users, (first, _) = users_of(mapping(1, RED, label="default/web"), mapping(2, RED, label="default/web"))
    assert users.shared(first, {RED}, besides="default/web") == set()
    assert users.shared(first, {RED}) == {RED}
