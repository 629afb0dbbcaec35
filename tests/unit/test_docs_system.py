"""What the documents say about the API and Nginx is what these do: settings, limits, sentences."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICE = ROOT / "service/slipway_api"
NGINX = ROOT / "nginx"
PROXY = "nginx/templates/proxy.conf.template"
SOCKET_PROXY = "nginx/templates/socket-proxy.conf.template"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
TROUBLESHOOTING = (ROOT / "docs/troubleshooting.md").read_text()


def table(readme: Path) -> dict[str, str]:
    """Return the settings of a README's table with their defaults, as they stand there."""
    rows = re.findall(r"(?m)^\| `([A-Z][A-Z_]+)` \| ([^|]+) \|", readme.read_text())
    assert len(rows) == len(dict(rows))
    return {name: default.strip("` ").replace("none", "") for name, default in rows}


def of_api() -> dict[str, str]:
    """Return the variables that the API reads, with their defaults; nothing of it is imported."""
    tree = ast.parse((SERVICE / "config.py").read_text())
    (settings,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"
    )
    given = {
        node.target.id: ast.literal_eval(node.value)
        for node in settings.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
    }
    variables = given.pop("VARIABLES")
    assert variables.keys() == given.keys()
    return {variables[field]: written(default) for field, default in given.items()}


def written(default: object) -> str:
    """Return a default as somebody would set it."""
    if isinstance(default, tuple):
        return ",".join(default)
    return f"{default:g}" if isinstance(default, float) else str(default)


def of_nginx() -> dict[str, str]:
    """Return the variables that Nginx's entrypoint reads, with their defaults as it serves."""
    text = (NGINX / "slipway-nginx").read_text()
    # `check` has a default of its own, since nginx looks a name up even then.
    serving = re.sub(r"(?m)^ *check\) : .*$", "", text)
    found = re.findall(r'"\$\{([A-Z_]+):=([^}]*)\}"', serving)
    assert len(found) == len(dict(found))
    return dict(found)


def test_readme_of_the_api_has_its_settings() -> None:
    """Each that there is, with its default, and no other."""
    assert len(of_api()) > 5
    assert table(ROOT / "service/README.md") == of_api()


def test_api_reads_nothing_else_from_its_environment() -> None:
    """So the table is all of it: for gunicorn's configuration and for the probe as well."""
    read: set[str] = set()
    for path in SERVICE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case (
                    ast.Call(
                        func=ast.Attribute(
                            value=ast.Attribute(attr="environ") | ast.Name("environ")
                        ),
                        args=[ast.Constant(str(name)), *_],
                    )
                    | ast.Call(
                        func=ast.Attribute(attr="getenv"), args=[ast.Constant(str(name)), *_]
                    )
                ):
                    read.add(name)
                case ast.Subscript(
                    value=ast.Attribute(attr="environ"),
                    slice=ast.Constant(str(name)),
                    ctx=ast.Load(),
                ):
                    read.add(name)
    # What comes with a request is in a dictionary that is called so as well.
    of_requests = {"PATH_INFO", "RAW_URI", "REQUEST_METHOD", "REMOTE_ADDR", "werkzeug.request"}
    read = {name for name in read - of_requests if not name.startswith("HTTP_")}
    assert read == {"SLIPWAY_BIND"}
    assert read <= of_api().keys()


def test_readme_of_nginx_has_its_settings() -> None:
    """Each that there is, with its default, and no other."""
    assert len(of_nginx()) > 3
    told = table(NGINX / "README.md")
    assert told.keys() == of_nginx().keys()
    # What has none at first, and gets one that depends on the role, is for Nginx's own tests.
    given = {name: default for name, default in of_nginx().items() if default}
    assert {name: told[name] for name in given} == given


def test_settings_that_documents_name_are_there() -> None:
    """A variable that somebody is told to set is one that is read."""
    # Jenkins has variables of its own.
    documents = {ROOT / "README.md", *ROOT.glob("docs/**/*.md")} - {ROOT / "docs/jenkins.md"}
    text = "".join(path.read_text() for path in documents)
    named = set(re.findall(r"\bSLIPWAY_[A-Z_]+\b", text))
    assert "SLIPWAY_DRAIN_DELAY" in named
    assert named <= of_api().keys()
    named = set(re.findall(r"\b(?:RATE_|TRUSTED_|API_)[A-Z_]+\b", text))
    assert "RATE_LIMIT" in named
    assert named <= of_nginx().keys()


def test_metrics_are_those_that_documents_name() -> None:
    """Each metric that the API has is in both tables, and no other is."""
    text = (SERVICE / "metrics.py").read_text()
    kinds = re.findall(r'\b(Counter|Gauge|Histogram)\(\s+"(slipway_\w+)"', text)
    assert len(kinds) == text.count('"slipway_') > 3
    there = {name + "_total" * (kind == "Counter") for kind, name in kinds}
    for document in (ROOT / "docs/monitoring.md", ROOT / "service/README.md"):
        rows = re.findall(r"(?m)^\| `(slipway_\w+)", document.read_text())
        assert sorted(rows) == sorted(there), document.name


# Where a limit is set, how it is set there, and how docs/architecture.md has it.
LIMITS = (
    ("nginx/conf/http.conf", "client_header_timeout 5s;", "5 s for the header"),
    ("nginx/conf/http.conf", "\nsend_timeout 10s;", "10 s between two pieces of the answer taken"),
    ("nginx/conf/http.conf", "\nkeepalive_timeout 30s;", "30 s idle"),
    ("nginx/conf/http.conf", "\nkeepalive_time 3s;", "ends with the first answer after 3 s"),
    ("nginx/conf/http.conf", "large_client_header_buffers 4 8000;", "each header line 8000 bytes"),
    (PROXY, "client_max_body_size 16k;", "body 16 KiB"),
    ("nginx/slipway-nginx", "{RATE_LIMIT:=50}", "50 requests a second and client"),
    ("nginx/slipway-nginx", "{RATE_BURST:=100}", "100 beyond that at once"),
    (PROXY, "proxy_cache_lock_timeout 1700ms;", "waiting for who fetches it 1.7 s"),
    (
        "service/slipway_api/containers.py",
        '"max-age=1, stale-while-revalidate=8, stale-if-error=8"',
        "a copy is good for 1 to 2 s",
    ),
    (
        "service/slipway_api/containers.py",
        '"max-age=1, stale-while-revalidate=8, stale-if-error=8"',
        "none is ever older than 10 s",
    ),
    (PROXY, "proxy_connect_timeout 1s;", "1 s to connect, 5 s between two pieces of the answer"),
    (PROXY, "proxy_read_timeout 5s;", "1 s to connect, 5 s between two pieces of the answer"),
    (PROXY, "proxy_next_upstream_timeout 2s;", "none begun after 2 s"),
    ("nginx/slipway-nginx", "API_TRIES=2", "2 tries with several names"),
    ("nginx/slipway-nginx", "API_TRIES=4", "4 with one"),
    (PROXY, "worker_shutdown_timeout 8s;", "within 8 s of SIGQUIT"),
    ("service/slipway_api/config.py", "workers: int = 2", "| 2 processes of 8 threads each"),
    ("service/slipway_api/config.py", "threads: int = 8", "| 2 processes of 8 threads each"),
    ("service/slipway_api/config.py", "source_timeout: float = 1.5", "1.5 s for the whole call"),
    ("service/slipway_api/config.py", '"source_timeout", 0.1, 1.8', "(0.1 to 1.8)"),
    ("service/slipway_api/config.py", "drain_delay: float = 1.0", "with its answer for 1 s"),
    ("service/slipway_api/config.py", "graceful_timeout: int = 8", "what it has within 8 s"),
    ("service/slipway_api/sources/shared.py", "INTERVAL = 1.0", "one call a second and process"),
    ("service/slipway_api/sources/shared.py", "HOLD = 1.0", "repeated for a second"),
    ("service/slipway_api/sources/shared.py", "MOST_CALLS = 16", "16 calls that hang"),
    (SOCKET_PROXY, "proxy_connect_timeout 500ms;", "0.5 s to connect"),
    (SOCKET_PROXY, "proxy_send_timeout 500ms;", "0.5 s to send"),
    (SOCKET_PROXY, "proxy_read_timeout 1400ms;", "1.4 s to answer"),
    ("service/slipway_api/static/page.js", "LIMIT = 8_000;", "8 s for an answer"),
    ("service/slipway_api/static/page.js", "INTERVAL = 5_000;", "the next after 5 s"),
    ("service/slipway_api/static/page.js", "LONGEST = 30_000;", "up to 30 s when there is no"),
    ("k8s/base/api/deployment.yaml", "terminationGracePeriodSeconds: 20", "20 s that a pod has"),
    ("k8s/base/api/deployment.yaml", "seconds: 5", "of which `preStop` takes 5"),
)


@pytest.mark.parametrize(("file", "code", "told"), LIMITS)
def test_limits_of_a_request_are_as_told(file: str, code: str, told: str) -> None:
    """Who changes a limit finds the sentence about it, and who changes the sentence the limit."""
    assert code in (ROOT / file).read_text()
    assert told in " ".join(ARCHITECTURE.split())


def test_sentences_to_look_up_are_those_that_are_said() -> None:
    """Somebody who searches the page for what the system has said finds it."""
    part = TROUBLESHOOTING.partition("\n## The running system\n")[2].partition("\n## ")[0]
    quoted = [
        quote
        for row in re.findall(r"(?m)^\|.*$", part)
        for quote in re.findall(r'"([^"]+)"', re.sub("`[^`]*`", "", row))
    ]
    assert len(quoted) > 15
    files = [*SERVICE.rglob("*"), *NGINX.glob("conf/*"), NGINX / "slipway-nginx"]
    said = "\n".join(
        path.read_text() for path in files if path.suffix in {".py", ".js", ".html", ".conf", ""}
        if path.is_file()
    )  # fmt: skip
    # A sentence may go on in the next line of the code.
    said = re.sub(r'"\s+f?"', "", said)
    assert not [quote for quote in quoted if quote not in said]


def test_statuses_that_nginx_explains_are_looked_up() -> None:
    """Each status that a client may get of Nginx itself in daily use is a row."""
    rows = "\n".join(re.findall(r"(?m)^\| (.*?) \|", TROUBLESHOOTING))
    for status in (400, 403, 405, 413, 414, 429, 431, 500, 502, 503, 504):
        assert re.search(rf"\b{status}\b", rows), status
