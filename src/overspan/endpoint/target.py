"""Where the load goes: address, proxy, TLS and the constant head of every request."""

from __future__ import annotations

import base64
import ipaddress
import re
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import httpx

from overspan import __version__
from overspan.schema.errors import HostUnreachable, InputError
from overspan.schema.secrets import Secret, authorization

HIDDEN = "[removed]"

_PROBE_TIMEOUT_S: Final = 2.0

SocketAddress = tuple[socket.AddressFamily, tuple[object, ...]]


@dataclass(frozen=True)
class EndpointTarget:
    """An OpenAI endpoint. `address` is where connections go: the server itself, or the proxy before it."""

    base_url: str
    host: str
    port: int
    address: SocketAddress
    api_key: Secret | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    proxy: str | None = None
    proxy_key: str | None = field(default=None, repr=False)
    tail: str = ""
    """What the server wants behind the path of a POST: a slash, as its redirects said."""

    @property
    def slower_path(self) -> str | None:
        """What stands between the loop and the server's own bytes, and what that costs; or None."""
        tls = "TLS: a slower path, without kernel timestamps"
        if self.proxy is None:
            return tls if self.tls else None
        via = f"the proxy {self.proxy}, whose own delays count as the server's"
        return f"{via}, and {tls}" if self.tls else via

    def hide(self, text: str | None) -> str | None:
        """What a server said, without the key, should it have quoted it."""
        return self.api_key.taken_out(text, HIDDEN) if text and self.api_key else text

    def http_client(self, timeout_s: float) -> httpx.Client:
        """A plain client for what is asked before the load, on the load's own way; to be closed by the caller.

        Args:
            timeout_s: how long nothing may come.
        """
        via = {"Proxy-Authorization": self.proxy_key} if self.proxy_key else None
        return httpx.Client(
            timeout=timeout_s,
            headers=authorization(self.api_key),
            verify=self.tls if self.tls is not None else False,
            proxy=httpx.Proxy(self.proxy, headers=via) if self.proxy else None,
            trust_env=False,
        )

    def head(self, path: str) -> bytes:
        """Everything of a POST's head up to the value of its content-length.

        Args:
            path: below the base URL, such as `/chat/completions`.
        """
        url = urlsplit(self.base_url)
        target = f"{url.path}{path}{self.tail}"
        if self.proxy and not self.tls:
            target = f"{url.scheme}://{url.netloc}{target}"
        lines = [
            f"POST {target} HTTP/1.1",
            f"Host: {url.netloc}",
            f"User-Agent: overspan/{__version__}",
            "Accept: text/event-stream",
            "Accept-Encoding: identity",
            "Content-Type: application/json",
            *(f"{name}: {value}" for name, value in authorization(self.api_key).items()),
            *([f"Proxy-Authorization: {self.proxy_key}"] if self.proxy_key and not self.tls else []),
            "Content-Length: ",
        ]
        return "\r\n".join(lines).encode("latin-1")


def shown_url(url: str) -> str:
    """A URL as a message may repeat it: what stands before `@`, in its query or behind `#` may be a secret."""
    scheme, mark, rest = url.rpartition("://") if url.count("://") == 1 else ("", "", url)
    plain = re.split("[?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(plain) :]:  # it may belong to a password that holds `?` or `#`
        return f"{scheme}{mark}{HIDDEN}"
    _, at, where = plain.rpartition("@")
    behind = rest[len(plain) : len(plain) + 1]
    return f"{scheme}{mark}{HIDDEN + at if at else ''}{where}{behind + HIDDEN if behind else ''}"


def make_target(
    base_url: str, api_key: Secret | None = None, *, insecure: bool = False, proxies: bool = True
) -> EndpointTarget:
    """Resolve a base URL. Loopback never goes through a proxy.

    Args:
        base_url: of an OpenAI endpoint, such as http://127.0.0.1:8000/v1.
        api_key: its key.
        insecure: do not check the certificate of an https endpoint.
        proxies: honour HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

    Raises:
        InputError: not an http(s) URL.
        HostUnreachable: the name does not resolve.
    """
    url = _checked(base_url)
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    proxy, proxy_key = _proxy(url.scheme, host) if proxies else (None, None)
    via = urlsplit(proxy) if proxy else None
    address = _resolve(via.hostname or "", via.port or 80) if via else _resolve(host, port)
    context = None
    if url.scheme == "https":
        context = ssl.create_default_context()
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    return EndpointTarget(base_url.rstrip("/"), host, port, address, api_key, context, proxy, proxy_key)


def _checked(base_url: str) -> SplitResult:
    try:
        url = urlsplit(base_url)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        valid = False
    shown = shown_url(base_url)
    if not valid or not base_url.isascii() or any(character.isspace() for character in base_url):
        raise InputError(f"'{shown}' is not a base URL", next="give it like http://127.0.0.1:8000/v1")
    if "@" in url.netloc:
        raise InputError(
            f"the base URL '{shown}' holds a name or password, which results would repeat",
            next="leave them out; a key goes into OVERSPAN_API_KEY",
        )
    if url.query or url.fragment:
        raise InputError(
            f"'{shown}' has a query or a fragment after its path", next="give it like http://127.0.0.1:8000/v1"
        )
    return url


def _proxy(scheme: str, host: str) -> tuple[str | None, str | None]:
    """The proxy without the name and password that its URL may carry, and those as a header's value."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback or urllib.request.proxy_bypass(host):
        return None, None
    found = urllib.request.getproxies().get(scheme)
    if not found:
        return None, None
    url = urlsplit(found)
    user, at, where = url.netloc.rpartition("@")
    if url.scheme != "http":
        raise InputError(f"the proxy {url.scheme}://{where} is not an http:// proxy", next="set HTTP_PROXY or NO_PROXY")
    key = base64.b64encode(unquote(user).encode()).decode()
    return f"http://{where}", f"Basic {key}" if at else None


def _resolve(host: str, port: int) -> SocketAddress:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # UnicodeError: a name that IDNA refuses
        why = getattr(error, "strerror", None) or error
        raise HostUnreachable(f"{host} does not resolve: {why}", next="check the URL") from None
    addresses: list[SocketAddress] = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    return next((each for each in addresses if _accepts(each)), addresses[0]) if len(addresses) > 1 else addresses[0]


def _accepts(address: SocketAddress) -> bool:
    """Whether somebody listens: `localhost` is two addresses, of which most servers have one."""
    try:
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.settimeout(_PROBE_TIMEOUT_S)
            return probe.connect_ex(address[1]) == 0
    except OSError:  # this machine has no such family
        return False
