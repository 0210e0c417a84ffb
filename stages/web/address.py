"""Addresses of videos: what of one may be stored, and which machines a download may reach.

A download may reach public addresses, and the host that the list itself names. A redirect, a page or a playlist that leads to the
inner network (loopback, private, link-local: routers, metadata services, other people's servers) is refused as it connects, by the
number that is connected to: neither a name's second answer nor a spelling of a number gets past that.
"""

import hashlib
import ipaddress
import re
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

_SECRET_NAME = re.compile(
    r"token|signature|^sig$|secret|passw|^pwd$|^auth|credential|api[-_.]?key|access[-_.]?key|session|jwt", re.IGNORECASE
)
_HIDDEN = re.compile(r"hidden-[0-9a-f]{8}")
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


def without_secrets(url: str) -> str:
    """An address as it may be stored and shown: no user and password; a token or signature of its query as a short hash.

    Two addresses that differ in a token alone stay two. Anything that is no http address is given back as it is.
    """
    if not url.lower().startswith(("http://", "https://")):
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    query = "&".join(_hashed(pair) for pair in parts.query.split("&"))
    kept = parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query)
    return url if kept == parts else urlunsplit(kept)


def has_hidden(url: str) -> bool:
    """Whether an address is one that was stored without its token or signature."""
    return any(_HIDDEN.fullmatch(pair.partition("=")[2]) for pair in url.partition("?")[2].split("&"))


def _hashed(pair: str) -> str:
    name, _, value = pair.partition("=")
    if not value or _HIDDEN.fullmatch(value) or not _SECRET_NAME.search(unquote(name)):
        return pair
    return f"{name}=hidden-{hashlib.sha256(value.encode()).hexdigest()[:8]}"


def hide_secrets(text: str, urls: Iterable[str]) -> str:
    """A message without the users, passwords and tokens of these addresses, however they are quoted in it."""
    for url in filter(None, urls):
        text = text.replace(url, without_secrets(url) if url.lower().startswith("http") else urlsplit(url)._replace(netloc="***").geturl())
        user_info = urlsplit(url).netloc.rpartition("@")[0]
        values = [pair.partition("=")[2] for pair in urlsplit(url).query.split("&") if _hashed(pair) != pair]
        secrets = {*values, user_info, user_info.partition(":")[2]}
        for secret in sorted(secrets | {unquote(one) for one in secrets}, key=len, reverse=True):
            if secret:
                text = text.replace(secret, "***")
    return text


def is_public(address: str) -> bool:
    """Whether a numeric address is one of the open internet; an IPv4 address inside an IPv6 one counts as itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo or (None, None))[1]
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


class Refused(BaseException):
    """A connection or a program that a download must not start. No Exception: yt-dlp tries those again by other means."""

    def __init__(self, message: str, *, address: bool) -> None:
        super().__init__(message)
        self.address = address


@dataclass(slots=True)
class Gate:
    """Watches every connection and every program of this process, from `close()` on and for good."""

    url: str
    others: Iterable[str] = ()
    """Hosts beside the list's own that may be reached, at any port."""
    proxies: Iterable[str] = ()
    """Addresses of proxies. Behind one, the proxy decides what is reached: only it is connected to."""
    _allowed: set[tuple[str, int]] = field(default_factory=set)

    def close(self) -> None:
        """From now on only public addresses and the named hosts are reached, and no program is given an address to fetch."""
        parts = urlsplit(self.url)
        port = _port(self.url)
        ports = {port, 443} if port == 80 else {port}  # a site on the usual ports may lead from the plain one to the other
        self._allowed |= {(address, one) for address in _numbers(parts.hostname or "") for one in ports}
        self._allowed |= {(address, _port(proxy)) for proxy in self.proxies for address in _numbers(urlsplit(proxy).hostname or "")}
        self._allowed |= {(address, 0) for host in self.others for address in _numbers(host)}
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            self._check(arguments[1])
        elif event == "subprocess.Popen":
            program, words, *_ = arguments
            if any("://" in str(word) for word in words or ()):
                raise Refused(f"offered only as a stream that {program} would have to fetch by itself", address=False)

    def _check(self, address: Any) -> None:
        if not isinstance(address, tuple):  # a socket of the file system: name services
            return
        host, port = str(address[0]), int(address[1])
        for number in _numbers(host):
            if not is_public(number) and not {(number, port), (number, 0)} & self._allowed:
                raise Refused(f"it leads to {host} port {port}, an address of the inner network that the list does not name", address=True)


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or _PORTS.get(parts.scheme.lower(), 80)


def _numbers(host: str) -> set[str]:
    """The numeric addresses of a host; empty when it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(ipaddress.ip_address(str(one[4][0]).partition("%")[0])) for one in found}
