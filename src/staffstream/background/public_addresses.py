"""Which addresses are public, and connections to public addresses only.

A URL that a user gives may name a machine of the operator's own network, at once or, by an answer of its name server
that changes, only after it was checked. So a host is resolved once, every address it has must be public, and the
connection is made to the address that was checked; the name goes on into Host and SNI. IPv4 is judged by the special
ranges of IANA's registry, IPv6 by what is global unicast at all, since Python's `is_global` lets multicast, NAT64 and
6to4 pass.
"""

import asyncio
import functools
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable
from concurrent.futures import Executor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import httpcore

from staffstream.errors import AddressNotPublic, ReceiverUnreachable

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses, in the order in which to try them. Raises OSError."""

_MAX_TRIED = 4

_NOT_PUBLIC_4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # Azure's metadata and agents, in the midst of public addresses
        "169.254.0.0/16",  # link-local, clouds' metadata among it
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
_GLOBAL_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = [
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries any IPv4 address
        "3fff::/20",  # documentation
    )
]
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Whether an address is one of the public Internet; an IPv4 address within an IPv6 one is judged itself."""
    ip: IPv4Address | IPv6Address | None = ipaddress.ip_address(address)
    if isinstance(ip, IPv6Address):
        if ip not in _NAT64 and ip.ipv4_mapped is None:
            return ip in _GLOBAL_6 and not any(ip in network for network in _NOT_PUBLIC_6)
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    return not any(ip in network for network in _NOT_PUBLIC_4)


def write_authority(host: str, port: int) -> str:
    """`name:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def resolve_host(host: str, port: int, *, threads: Executor | None = None) -> list[str]:
    """A host's addresses as the system resolves them, each once.

    `threads` are for names that users give: a lookup lasts as long as its name server takes, and the loop's few
    threads have Claude's name to look up as well.
    """
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(threads, look_up)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """TCP for httpcore that connects to public addresses only, and to what the hosts named in `private_hosts` resolve
    to: `name` for every port of it, or `name:port`.
    """

    def __init__(
        self,
        *,
        private_hosts: Collection[str] = (),
        resolve: Resolve = resolve_host,
        tcp: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._private_hosts = frozenset(private_hosts)
        self._resolve = resolve
        self._tcp = tcp or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to one of the host's addresses, tried in order. Raises AddressNotPublic, before anything is
        connected, if any of them is not; else ReceiverUnreachable or what httpcore raises.
        """
        addresses = await self._find_addresses(host, port)
        for address in addresses[:-1]:
            try:
                return await self._tcp.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        return await self._tcp.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def _find_addresses(self, host: str, port: int) -> list[str]:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label that is too long
            raise ReceiverUnreachable("The receiver's host name could not be resolved.") from error
        if not addresses:
            raise ReceiverUnreachable("The receiver's host name has no address.")
        names = {host.rstrip("."), write_authority(host.rstrip("."), port)}
        if not names & self._private_hosts and not all(is_public(address) for address in addresses):
            raise AddressNotPublic
        return addresses[:_MAX_TRIED]
