"""A Docker Engine that is none: it lists what a test says, as the API asks for it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

HOUR = 3600
# What is long past and does not change, so that two lists differ by what a test changed alone.
CREATED = 1_577_836_800


def container(number: int, name: str, image: str, state: str = "running", **more: Any) -> Any:  # noqa: ANN401 - as it goes over the wire
    """Make an element of Docker's list.

    Args:
        number: Makes the id.
        name: Its name.
        image: Its image.
        state: Its state.
        more: Further members, in Docker's names.
    """
    status = "Up 3 hours" if state == "running" else state.capitalize()
    return {
        "Id": f"{number:02x}" * 32,
        "Names": [f"/{name}"],
        "Image": image,
        "Created": CREATED - number * HOUR,
        "Ports": [],
        "Labels": {},
        "State": state,
        "Status": status,
        **more,
    }


class FakeDocker:
    """Answers lists over HTTP on the loopback interface while it is entered.

    Attributes:
        items: What it lists.
        gone: Whether it answers with an error instead.
    """

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.gone = False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path.endswith("/version"):
                    self._send(200, {"ApiVersion": "1.45"})
                elif fake.gone:
                    self._send(502, {"message": "nobody is there"})
                elif path.endswith("/containers/json"):
                    self._send(200, fake.items)
                else:
                    self._send(404, {"message": "not one of the calls that the API makes"})

            def _send(self, status: int, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Keep the test's output for the test."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def address(self) -> str:
        """What the API is told as ``DOCKER_HOST``."""
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    @property
    def names(self) -> list[str] | None:
        """The names that it lists, in order; None if it does not."""
        if self.gone:
            return None
        return sorted(item["Names"][0].removeprefix("/") for item in self.items)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(timeout=10)
        self._server.server_close()
