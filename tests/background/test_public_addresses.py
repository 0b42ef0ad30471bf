"""Where webhooks may go: public addresses, checked once and connected to as checked."""

from collections.abc import Sequence
from typing import Any

import httpcore
import pytest

from staffstream.background.public_addresses import CheckedBackend, Resolve, is_public, resolve_host
from staffstream.errors import (
    AddressNotPublic,
    ReceiverUnreachable,
)
from tests.tools.receiver import answer_names

pytestmark = pytest.mark.anyio

PUBLIC = ["8.8.8.8", "2606:4700:4700::1111"]


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "192.167.1.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
        "2003::1",
        "::ffff:8.8.8.8",  # IPv4-mapped
        "64:ff9b::8.8.8.8",  # NAT64
    ],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Those just beside the special ranges too."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",  # carrier-grade NAT
        "100.127.255.255",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.169.254",  # the clouds' metadata
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",  # multicast
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",  # IPv4-compatible
        "::ffff:127.0.0.1",  # IPv4-mapped
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:0:127.0.0.1",  # IPv4-translated
        "64:ff9b::10.0.0.1",  # NAT64
        "64:ff9b::127.0.0.1",
        "64:ff9b:1::1",  # local NAT64
        "100::1",  # discard
        "2001::1",  # Teredo
        "2001:db8::1",
        "2002:7f00:1::1",  # 6to4
        "2002:808:808::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",  # unique local
        "fdff::1",
        "fe80::1",  # link-local
        "fe80::1%2",
        "fec0::1",  # site-local
        "ff02::1",  # multicast
    ],
)
def test_special_addresses_are_not_public(address: str) -> None:
    """Each kind in the registries of IANA, and IPv4 within IPv6."""
    assert not is_public(address)


class Recorder(httpcore.AsyncNetworkBackend):
    """In place of TCP: keeps where a connection would have gone, and answers 204. Some addresses refuse."""

    def __init__(self, *refusing: str) -> None:
        self.connected: list[tuple[str, int]] = []
        self._refusing = refusing

    async def connect_tcp(self, host: str, port: int, *_: Any) -> httpcore.AsyncNetworkStream:
        self.connected.append((host, port))
        if host in self._refusing:
            raise httpcore.ConnectError
        return httpcore.AsyncMockStream([b"HTTP/1.1 204 No Content\r\n\r\n"])


async def connect(
    host: str, resolve: Resolve, tcp: Recorder, *, private_hosts: Sequence[str] = (), port: int = 443
) -> None:
    backend = CheckedBackend(private_hosts=private_hosts, resolve=resolve, tcp=tcp)
    await backend.connect_tcp(host, port)


async def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """The name is resolved once, and nobody resolves it again."""
    tcp = Recorder()
    resolve, asked = answer_names(PUBLIC)
    await connect("hooks.example", resolve, tcp)
    assert asked == [("hooks.example", 443)]
    assert tcp.connected == [(PUBLIC[0], 443)]


async def test_a_name_that_changes_its_address_is_caught() -> None:
    """Rebinding: public when first asked, loopback when asked again. Each connection is checked for itself."""
    tcp = Recorder()
    resolve, asked = answer_names(PUBLIC, ["127.0.0.1"])
    await connect("rebind.example", resolve, tcp)
    with pytest.raises(AddressNotPublic):
        await connect("rebind.example", resolve, tcp)
    assert len(asked) == 2
    assert tcp.connected == [(PUBLIC[0], 443)]


@pytest.mark.parametrize(
    "addresses", [["10.0.0.1"], [*PUBLIC, "::ffff:10.0.0.1"], ["169.254.169.254", *PUBLIC], [*PUBLIC, "168.63.129.16"]]
)
async def test_one_private_address_among_public_ones_is_enough_to_refuse(addresses: list[str]) -> None:
    """Before anything is connected: who controls the name would choose which one is taken."""
    tcp = Recorder()
    with pytest.raises(AddressNotPublic):
        await connect("hooks.example", answer_names(addresses)[0], tcp)
    assert tcp.connected == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "::1", "0", "[::1]"])
async def test_loopback_by_any_other_name_is_refused(host: str) -> None:
    """The system's resolver understands more forms than one thinks; what it makes of them is what is checked."""
    tcp = Recorder()
    with pytest.raises((AddressNotPublic, ReceiverUnreachable)):
        await connect(host, resolve_host, tcp)
    assert tcp.connected == []


async def test_the_next_address_is_tried_when_one_refuses() -> None:
    """In the order of the resolver, and in the end the last one's error counts."""
    tcp = Recorder(PUBLIC[0])
    await connect("hooks.example", answer_names(PUBLIC)[0], tcp)
    assert [address for address, _ in tcp.connected] == PUBLIC
    with pytest.raises(httpcore.ConnectError):
        await connect("hooks.example", answer_names(PUBLIC)[0], Recorder(*PUBLIC))


@pytest.mark.parametrize("allowed", ["inside.example", "inside.example:443", "10.0.0.1", "[fd00::1]:443"])
async def test_hosts_that_the_operator_names_may_be_private(allowed: str) -> None:
    """WEBHOOK_ALLOW_PRIVATE, for receivers in the same network: by name, or by name and port."""
    tcp = Recorder()
    host = allowed.removesuffix(":443").strip("[]")
    address = host if host[-1].isdigit() else "10.0.0.1"
    await connect(host, answer_names([address])[0], tcp, private_hosts=[allowed])
    assert tcp.connected == [(address, 443)]
    for other, port in (("outside.example", 443), (f"x.{host}", 443), (host, 444 if ":443" in allowed else 0)):
        if port:
            with pytest.raises(AddressNotPublic):
                await connect(other, answer_names([address])[0], tcp, private_hosts=[allowed], port=port)
    assert len(tcp.connected) == 1


@pytest.mark.parametrize("host", ["no.such.name.invalid", "a" * 64 + ".example", "a..b", "exa%20mple", "-"])
async def test_a_name_that_cannot_be_resolved_is_unreachable(host: str) -> None:
    """A name server may be down for a while, so it is tried again."""
    with pytest.raises(ReceiverUnreachable):
        await connect(host, resolve_host, Recorder())
