"""One keep-alive connection, never blocking: plain with kernel receive stamps, through a proxy, or over TLS."""

from __future__ import annotations

import errno
import socket
import ssl
import struct
import time
from typing import Final, Literal

from overspan.bench.stream import READ_BYTES, Stream
from overspan.bench.wire import HttpReply
from overspan.endpoint.target import EndpointTarget

SO_TIMESTAMPING: Final = 37
"""SO_TIMESTAMPING with 64-bit seconds. Source: Linux include/uapi/asm-generic/socket.h (SO_TIMESTAMPING_OLD)."""

_RX_SOFTWARE: Final = (1 << 3) | (1 << 4)
"""SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE. Source: Linux include/uapi/linux/net_tstamp.h."""

STAMP: Final = struct.Struct("qq")
"""Seconds and nanoseconds of a receive stamp, in the data of its control message."""

ConnectionState = Literal["connecting", "tunnel", "handshake", "open", "closed"]


class Connection:
    """A socket of the load.

    Attributes:
        stream: the request in flight, None while idle.
        leftover: the reply whose answer has ended and whose body has not: its rest is read before the next request.
        direct: open and plain: its reads need no TLS.
        unsent: what of the request the kernel has not taken yet.
        wants_write: the state machine waits for the socket to become writable.
    """

    def __init__(self, target: EndpointTarget) -> None:
        family, address = target.address
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.kernel_stamps = target.tls is None and _ask_for_stamps(self.socket)
        self.direct = False
        self.recvmsg = self.socket.recvmsg
        self._target = target
        self._tls: ssl.SSLSocket | None = None
        self._head = b""
        self.fd = self.socket.fileno()
        self.stream: Stream | None = None
        self.leftover: HttpReply | None = None
        self.unsent = b""
        self.used = 0
        self.opened_ns = time.time_ns()
        self.state: ConnectionState = "connecting"
        self.wants_write = True
        code = self.socket.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise OSError(code, errno.errorcode.get(code, "connect"))

    def advance(self) -> bool:
        """Go on with connecting, the proxy's tunnel and the TLS handshake; return whether it is open now.

        Raises:
            OSError: it failed (ssl.SSLError is one).
        """
        if self.state == "connecting":
            code = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, errno.errorcode.get(code, "connect"))
            self._connected()
        elif self.state == "tunnel":
            self._read_tunnel()
        if self.state == "handshake":
            self._handshake()
        return self.state == "open"

    def _connected(self) -> None:
        self.wants_write = False
        if self._target.tls is None:
            self.state = "open"
            self.direct = True
        elif self._target.proxy is not None:
            where = f"{self._target.host}:{self._target.port}"
            key = f"Proxy-Authorization: {self._target.proxy_key}\r\n" if self._target.proxy_key else ""
            self.socket.send(f"CONNECT {where} HTTP/1.1\r\nHost: {where}\r\n{key}\r\n".encode("latin-1"))
            self.state = "tunnel"
        else:
            self._start_tls()

    def _read_tunnel(self) -> None:
        data = self.socket.recv(READ_BYTES)
        self._head += data
        if not data or len(self._head) > 65536:
            raise OSError(errno.ECONNABORTED, "the proxy closed the tunnel")
        if b"\r\n\r\n" in self._head:
            line = self._head.split(b"\r\n", 1)[0]
            if line[8:12].strip() != b"200":
                raise OSError(errno.ECONNREFUSED, f"the proxy refused the tunnel: {line[:80].decode('latin-1')}")
            self._start_tls()

    def _start_tls(self) -> None:
        context = self._target.tls
        if context is None:
            raise ValueError("no TLS context")
        self._tls = context.wrap_socket(self.socket, server_hostname=self._target.host, do_handshake_on_connect=False)
        self.socket = self._tls
        self.state = "handshake"

    def _handshake(self) -> None:
        if self._tls is None:
            raise ValueError("no TLS socket")
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self.wants_write = False
        except ssl.SSLWantWriteError:
            self.wants_write = True
        else:
            self.wants_write = False
            self.state = "open"

    def read(self) -> bytes:
        """One read over TLS: the bytes, empty at the end. A plain connection is read by `recvmsg`, with stamps.

        Raises:
            BlockingIOError: nothing there yet.
            OSError: the connection broke.
        """
        if self._tls is None:
            return self.socket.recv(READ_BYTES)
        try:
            return self._tls.recv(READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except ssl.SSLEOFError:
            return b""

    @property
    def buffered(self) -> bool:
        """TLS holds bytes that no poll will tell of."""
        return self._tls is not None and self._tls.pending() > 0

    def write(self) -> None:
        """Hand what is unsent to the kernel; the rest waits for the socket to become writable.

        Raises:
            OSError: the connection broke.
        """
        try:
            sent = self.socket.send(self.unsent)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            sent = 0
        self.unsent = self.unsent[sent:] if sent < len(self.unsent) else b""
        self.wants_write = bool(self.unsent)

    def close(self) -> None:
        """Close it; no exchange of goodbyes."""
        self.state = "closed"
        self.direct = False
        self.stream = None
        if self.leftover is not None:
            self.leftover.forget()
        self.socket.close()


def hold_stamps() -> socket.socket:
    """A socket that asks for stamps and does nothing else: while none asks the kernel stops stamping, and the first
    bytes after that have no stamp (Linux net/core/dev.c, net_enable_timestamp)."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    _ask_for_stamps(held)
    return held


def _ask_for_stamps(sock: socket.socket) -> bool:
    if struct.calcsize("P") != 8:
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, _RX_SOFTWARE)
    except OSError:
        return False
    return True


def connect_error_kind(error: OSError) -> str:
    """The kind of a failure to connect, for the count of errors."""
    if isinstance(error, ssl.SSLError):
        return "tls"
    kinds = {errno.ECONNREFUSED: "connect_refused", errno.ETIMEDOUT: "connect_timeout"}
    return kinds.get(error.errno or 0, "connect_error")
