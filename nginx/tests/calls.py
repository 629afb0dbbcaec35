"""The table of the socket proxy: what it lets through to Docker, and what it refuses.

Data alone, so that it is asked of nginx before a fake here, and before a real Docker Engine by the
tests of the project. Whatever would change something names nothing that exists.
"""

from __future__ import annotations

LIST = "/v1.44/containers/json"

ALLOWED = [
    ("GET", "/_ping"),
    ("HEAD", "/_ping"),
    ("GET", "/v1.44/_ping"),
    ("HEAD", "/v1.44/_ping"),
    ("GET", "/version"),
    ("GET", "/v1.44/version"),
    ("GET", "/containers/json"),
    ("GET", LIST),
    ("GET", f"{LIST}?all=1"),
    ("GET", f"{LIST}?limit=-1&all=1&size=0&trunc_cmd=0"),
    ("GET", f"{LIST}?filters=%7B%22status%22%3A+%5B%22running%22%5D%7D"),
    ("GET", f"{LIST}?all=true&size=false&since=abc&before=a_b.c-d"),
]
"""Methods and paths of the three calls."""

METHODS = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "COPY", "MKCOL", "get", "XGET")
"""Methods that are not GET or HEAD."""

CONTAINER = "abc"
"""Stands for a container; one that is there takes its place where there is a real Docker Engine."""

READS = [
    "json",
    "top",
    "top?ps_args=aux",
    "logs?stdout=1",
    "logs?stdout=1&follow=1",
    "changes",
    "export",
    "stats",
    "stats?stream=0",
    "attach/ws",
    "attach/ws?logs=1&stream=1",
    "attach?logs=1",
    "archive?path=/etc/hostname",
]
"""What only reads of a container, and tells what must stay in it."""

DENIED: list[tuple[str, str]] = [
    # Other calls that only read, and tell more than they should.
    ("GET", "/"),
    ("GET", "/info"),
    ("GET", "/events"),
    ("GET", "/v1.44/events?since=0"),
    ("GET", "/v1.44/info"),
    ("GET", "/images/json"),
    ("GET", "/v1.44/images/json"),
    ("GET", "/images/debian/get"),
    ("GET", "/images/get?names=debian"),
    ("GET", "/images/debian/json"),
    ("GET", "/images/debian/history"),
    ("GET", "/images/search?term=debian"),
    *(
        (method, f"{version}/containers/{CONTAINER}/{call}")
        for version in ("", "/v1.44")
        for call in READS
        for method in ("GET", "HEAD")
    ),
    ("GET", "/exec/abc/json"),
    ("GET", "/build"),
    ("GET", "/build/prune"),
    ("GET", "/session"),
    ("GET", "/auth"),
    ("GET", "/networks"),
    ("GET", "/volumes"),
    ("GET", "/secrets"),
    ("GET", "/configs"),
    ("GET", "/plugins"),
    ("GET", "/services"),
    ("GET", "/tasks"),
    ("GET", "/nodes"),
    ("GET", "/swarm"),
    ("GET", "/swarm/unlockkey"),
    ("GET", "/system/df"),
    ("GET", "/distribution/debian/json"),
    # Calls that change something.
    ("POST", "/containers/create"),
    ("POST", "/v1.44/containers/create?name=x"),
    ("POST", "/containers/abc/start"),
    ("POST", "/containers/abc/exec"),
    ("POST", "/containers/abc/attach?stream=1"),
    ("POST", "/exec/abc/start"),
    ("PUT", "/containers/abc/archive?path=/etc"),
    ("DELETE", "/containers/abc"),
    ("POST", "/build"),
    ("POST", "/images/create?fromImage=debian"),
    ("POST", "/swarm/init"),
    ("POST", "/session"),
    ("POST", "/grpc"),
    # The allowed paths with another method.
    *((method, path) for path in ("/_ping", "/version", "/containers/json") for method in METHODS),
    ("HEAD", "/version"),
    ("HEAD", "/containers/json"),
    ("HEAD", "/v1.44/containers/json?all=1"),
    # Paths that are nearly allowed.
    ("GET", "/_ping/"),
    ("GET", "/_pingx"),
    ("GET", "/x/_ping"),
    ("GET", "/_ping?"),
    ("GET", "/_ping?x=1"),
    ("GET", "/version/"),
    ("GET", "/version?x=1"),
    ("GET", "/Version"),
    ("GET", "/_PING"),
    ("GET", "/Containers/JSON"),
    ("GET", "/V1.44/version"),
    ("GET", "/containers/json/"),
    ("GET", "/containers/json/x"),
    ("GET", "/containers/jsonx"),
    ("GET", "/containers/json;x"),
    ("GET", "/containers/json#x"),
    ("GET", "/containers/json?x#y"),
    ("GET", '/containers/json?filters={"id":1}'),
    ("GET", "/containers/json?a\\b"),
    # Queries that ask for more than a list, or that are none.
    ("GET", f"{LIST}?"),
    ("GET", f"{LIST}?&"),
    ("GET", f"{LIST}?all=1&"),
    ("GET", f"{LIST}?all=1&&limit=1"),
    ("GET", f"{LIST}?all=1;limit=1"),
    ("GET", f"{LIST}?all"),
    ("GET", f"{LIST}?all=2"),
    ("GET", f"{LIST}?size=1"),
    ("GET", f"{LIST}?limit=1&size=true"),
    ("GET", f"{LIST}?%73ize=1"),
    ("GET", f"{LIST}?ALL=1"),
    ("GET", f"{LIST}?x=1"),
    ("GET", f"{LIST}?x=/../../exec"),
    ("GET", f"{LIST}?all=1/../../abc/json"),
    ("GET", f"{LIST}?all=1?all=1"),
    ("GET", f"{LIST}?filters={{}}"),
    ("GET", f"{LIST}?filters=[%22a%22]"),
    ("GET", f"{LIST}?since=../abc"),
    ("GET", f"{LIST}?since=%2e%2e"),
    ("GET", "/v1/_ping"),
    ("GET", "/v1./_ping"),
    ("GET", "/v2.44/_ping"),
    ("GET", "/v1.4.4/_ping"),
    ("GET", "/v1.44x/_ping"),
    ("GET", "/v1x44/_ping"),
    ("GET", "/v1.44"),
    ("GET", "/v1.44/v1.44/_ping"),
    ("GET", "/.problem"),
    # Paths that mean an allowed one, or mean another one, once they are decoded or resolved.
    ("GET", "//_ping"),
    ("GET", "/v1.44//_ping"),
    ("GET", "//containers/json"),
    ("GET", "/containers//json"),
    ("GET", "/containers/./json"),
    ("GET", "/./containers/json"),
    ("GET", "/x/../containers/json"),
    ("GET", "/containers/json/../abc/json"),
    ("GET", "/containers/json/..%2fabc/json"),
    ("GET", "/containers/json/%2e%2e/abc/json"),
    ("GET", "/containers/%6ason"),
    ("GET", "/%63ontainers/json"),
    ("GET", "/containers%2fjson"),
    ("GET", "/containers/json%3fall=1"),
    ("GET", "/containers/json%20"),
    ("GET", "/containers/json%0d%0aX:%20y"),
    ("GET", "/%5fping"),
    ("GET", "/_ping%2f"),
    ("GET", "/v1%2e44/_ping"),
]
"""Methods and paths of whatever else there is."""

ODD = [
    # In absolute form, and with the line written in another way.
    b"GET http://docker/containers/json HTTP/1.1\r\nHost: a\r\n",
    b"GET http://docker/_ping HTTP/1.1\r\nHost: docker\r\n",
    b"GET HTTP://docker:2375/version HTTP/1.1\r\nHost: docker\r\n",
    b"GET //docker/_ping HTTP/1.1\r\nHost: docker\r\n",
    b"GET * HTTP/1.1\r\nHost: a\r\n",
    b"GET _ping HTTP/1.1\r\nHost: a\r\n",
    b"GET  /containers/json HTTP/1.1\r\nHost: a\r\n",
    b"GET /containers/json  HTTP/1.1\r\nHost: a\r\n",
    b"GET /containers/json HTTP/1.1 \r\nHost: a\r\n",
    b"GET /containers/json HTTP/1.2\r\nHost: a\r\n",
    b"GET /containers/json?a b HTTP/1.1\r\nHost: a\r\n",
    b"GET /containers/json?\x01 HTTP/1.1\r\nHost: a\r\n",
    b"GET /containers/json?\xff HTTP/1.1\r\nHost: a\r\n",
    # Out of the root.
    b"GET /../containers/json HTTP/1.1\r\nHost: a\r\n",
    b"GET /containers/json%00 HTTP/1.1\r\nHost: a\r\n",
    b"CONNECT / HTTP/1.1\r\nHost: a\r\n",
    b"TRACE /_ping HTTP/1.1\r\nHost: a\r\n",
    # With a body, or with two opinions on its length.
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
    b"POST /build HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 9\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 9\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
    b"GET /_ping HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n",
    # With two hosts, or none.
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n",
    b"GET /_ping HTTP/1.1\r\n",
    # Towards another protocol.
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n",
    b"GET /_ping HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
    b"GET /version HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n",
    b"CONNECT docker:2375 HTTP/1.1\r\nHost: a\r\n",
    b"PRI * HTTP/2.0\r\n",
]
"""Request lines and headers that two programs could read in two ways, without the empty line."""
