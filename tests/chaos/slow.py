"""Clients that take their time, or never say what they want: some hundred, for some seconds.

Each kind has a limit within which the server has to be rid of it, and each client of it is watched
until its connection has ended. Single-threaded: one selector looks after all of them.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGE = "/swagger/js/swagger-ui-bundle.js"
"""The largest thing that is served, 1.5 MB."""
TIMES = 20
"""How often it is asked for at once: more than what the buffers on its way hold."""
_WHOLE = TIMES * 1_400_000
"""Bytes that all of it has at least."""
_HEAD = b"GET /api/v1/containers HTTP/1.1\r\nHost: slow\r\nX-Slow: "
_TICK = 0.25


@dataclass(frozen=True, slots=True)
class Kind:
    """How a client behaves.

    Attributes:
        count: How many there are of it.
        first: What it sends at once.
        drip: What it sends, byte by byte, each quarter of a second.
        half_closed: Whether it says that it will send nothing more.
        reads: Whether it takes what is sent to it.
        limit: Seconds within which the server ends its connection.
    """

    count: int
    first: bytes = b""
    drip: bytes = b""
    half_closed: bool = False
    reads: bool = True
    limit: float = 8.0


KINDS: Mapping[str, Kind] = {
    # Nginx gives a header 5 s, from the first byte to the last one.
    "says nothing": Kind(60),
    "stops within the header": Kind(60, first=_HEAD),
    "sends a header byte by byte": Kind(60, first=_HEAD, drip=b"x" * 200),
    "closes its half within the header": Kind(20, first=_HEAD, half_closed=True),
    # Nginx gives a client 10 s to take something.
    "asks for much and reads nothing": Kind(
        20,
        first=b"GET %b HTTP/1.1\r\nHost: slow\r\n\r\n" % LARGE.encode() * TIMES,
        reads=False,
        limit=15.0,
    ),
}


class _Client:
    def __init__(self, name: str, kind: Kind, address: tuple[str, int]) -> None:
        self.name = name
        self.kind = kind
        self.began = time.monotonic()
        self.sent = 0
        self.socket = socket.socket()
        self.socket.settimeout(5)
        self.socket.connect(address)
        self.socket.sendall(self.kind.first)
        if self.kind.half_closed:
            self.socket.shutdown(socket.SHUT_WR)
        self.socket.settimeout(0)

    @property
    def age(self) -> float:
        """The seconds since it came."""
        return time.monotonic() - self.began

    def was_let_go(self) -> bool:
        """Read what there is; return whether the connection ends before all was sent.

        Raises:
            AssertionError: It neither ends nor has all.
        """
        self.socket.settimeout(2)
        size = 0
        try:
            while data := self.socket.recv(65536):
                size += len(data)
        except ConnectionError:
            return True
        except TimeoutError:
            # What waits for its next request is nobody's burden.
            assert size >= _WHOLE, f"one that {self.name} is still there"
        return size < _WHOLE

    def go_on(self) -> None:
        """Send the next byte, if there is one to be sent."""
        if self.sent < len(self.kind.drip):
            # The other side may have closed it, which the selector tells.
            with contextlib.suppress(OSError):
                self.socket.send(self.kind.drip[self.sent : self.sent + 1])
            self.sent += 1

    @property
    def ended(self) -> bool:
        """Whether the connection has ended, as the event of the selector said it might have."""
        try:
            return not self.socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            return True


class Crowd:
    """All kinds of clients at once, connected as long as it is entered.

    Args:
        url: Whom they come to.
        kinds: What there is of them, by what a client of it does.
    """

    def __init__(self, url: str, kinds: Mapping[str, Kind] = KINDS) -> None:
        self._kinds = kinds
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._clients: list[_Client] = []

    def __len__(self) -> int:
        return len(self._clients)

    def __enter__(self) -> Self:
        try:
            for name, kind in self._kinds.items():
                self._clients += [_Client(name, kind, self._address) for _ in range(kind.count)]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.socket.close()

    def wait(self) -> dict[str, float]:
        """Wait until all of them are let go.

        Returns:
            The seconds that the last one of each kind was connected, or had time to read.

        Raises:
            AssertionError: One was not let go within the limit of its kind.
        """
        ended: dict[str, float] = {}
        reading = {client for client in self._clients if client.kind.reads}
        with selectors.DefaultSelector() as selector:
            for client in reading:
                selector.register(client.socket, selectors.EVENT_READ, client)
            while reading:
                over = [key.data for key, _ in selector.select(_TICK) if key.data.ended]
                for client in over:
                    selector.unregister(client.socket)
                    reading.discard(client)
                    ended[client.name] = max(client.age, ended.get(client.name, 0.0))
                for client in reading:
                    assert client.age < client.kind.limit, f"one that {client.name} is still there"
                    client.go_on()
        # To look at these is to read, so there is one look, when their time is over. Buffers on the
        # way may hold all that one of them asked for, but not what all of them did.
        for name, kind in self._kinds.items():
            mute = [each for each in self._clients if each.name == name and not kind.reads]
            if mute:
                time.sleep(max(0.0, kind.limit - mute[-1].age))
                assert sum(each.was_let_go() for each in mute) > len(mute) / 2
                ended[name] = kind.limit
        return ended
