"""A fake of the Dagger client, and a run's context that has it: for the tests of the steps.

The fake records what is asked, as a chain of calls, and answers a chain's end by rules.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline import cache, context, images, source
from pipeline.config import Settings
from pipeline.connect import Engine
from pipeline.context import Context, Socket
from pipeline.setup.bases import Bases

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import dagger

    from pipeline.images import Reference
    from pipeline.registry import Login

DIGEST = f"sha256:{'1' * 64}"
BASES = {
    "api": f"docker.io/library/python:3@sha256:{'a' * 64}",
    "nginx": f"docker.io/library/nginx:1@sha256:{'b' * 64}",
}
ENDS = frozenset(
    {
        "stdout",
        "stderr",
        "exit_code",
        "sync",
        "export",
        "publish",
        "user",
        "label",
        "start",
        "stop",
        "version",
    }
)
JUNIT = """<testsuites><testsuite name="s" tests="2">
<testcase classname="a_test" name="test_one"/>
<testcase classname="a_test" name="test_two">{}</testcase></testsuite></testsuites>"""


@dataclass(frozen=True)
class Call:
    """One call in a chain."""

    name: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]


class Node:
    """Whatever a chain of calls leads to."""

    def __init__(self, dagger: FakeDagger, chain: tuple[Call, ...]) -> None:
        self._dagger = dagger
        self.chain = chain

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401
            node = Node(self._dagger, (*self.chain, Call(name, args, options)))
            return self._dagger.end(node) if name in ENDS else node

        return call

    def calls(self, name: str) -> list[Call]:
        """Return the calls of a name that led here, the first first."""
        return [call for call in self.chain if call.name == name]

    def built(self) -> tuple[str, str]:
        """Return the last part of the context's folder and the target that was built, if any."""
        found = self.calls("docker_build")
        if not found:
            return "", ""
        inner = str([c.args for node in _nested(self) for c in node.chain])
        return ("nginx" if "/nginx" in inner else "api"), str(found[-1].options["target"])

    def ran(self) -> list[str]:
        """Return the last command that ran."""
        return list(self.calls("with_exec")[-1].args[0])


def _nested(node: Node) -> list[Node]:
    found = [node]
    for call in node.chain:
        for value in itertools.chain(call.args, call.options.values()):
            if isinstance(value, Node):
                found += _nested(value)
    return found


@dataclass
class FakeDagger:
    """A client that runs nothing.

    Attributes:
        answers: What the end of a chain comes to, by the name of its last call: a value, an error
            to raise, or a function of the node.
        ended: The ends that were asked, in order.
        reports: The text that is exported, by the last part of the path in the container.
    """

    answers: dict[str, Any] = field(default_factory=dict)
    ended: list[Node] = field(default_factory=list)
    reports: dict[str, str] = field(default_factory=lambda: {"junit": JUNIT.format("")})

    @property
    def client(self) -> dagger.Client:
        """The client."""
        return cast("dagger.Client", Node(self, ()))

    async def end(self, node: Node) -> Any:  # noqa: ANN401
        """Answer the end of a chain."""
        self.ended.append(node)
        last = node.chain[-1]
        defaults: dict[str, Any] = {
            "exit_code": 0,
            "stdout": "",
            "stderr": "",
            "user": "10001:10001",
            "publish": lambda n: f"{n.chain[-1].args[0]}@{DIGEST}",
            "export": self._export,
        }
        answer = self.answers.get(last.name, defaults.get(last.name, node))
        if callable(answer) and not isinstance(answer, Node):
            answer = answer(node)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _export(self, node: Node) -> str:
        path = Path(node.calls("file")[-1].args[0])
        for name, text in self.reports.items():
            if path.name.startswith(name):
                Path(node.chain[-1].args[0]).write_text(text, encoding="utf-8")
                return ""
        raise query_error(f"{path}: no such file")

    def asked(self, name: str) -> list[Node]:
        """Return the ends of a name that were asked."""
        return [node for node in self.ended if node.chain[-1].name == name]


def query_error(message: str) -> dagger.QueryError:
    """Return what the SDK raises when the engine answers an error."""
    import dagger
    from dagger._exceptions import QueryErrorValue

    return dagger.QueryError([QueryErrorValue(message)], cast("Any", _Request()))


def exec_error(command: list[str], code: int, stdout: str, stderr: str) -> dagger.QueryError:
    """Return what the SDK raises when a command ended with another exit code than expected."""
    import dagger
    from dagger._exceptions import QueryErrorValue

    extensions = {
        "_type": "EXEC_ERROR",
        "cmd": command,
        "exitCode": code,
        "stdout": stdout,
        "stderr": stderr,
    }
    value = QueryErrorValue("process failed", extensions=extensions)
    return dagger.QueryError([value], cast("Any", _Request()))


class _Request:
    document = None


@dataclass
class FakeRegistry:
    """A registry that has what it is told.

    Attributes:
        digests: By reference.
        sizes: By repository; an error to raise for one that cannot be told.
    """

    digests: dict[str, str | None] = field(default_factory=dict)
    sizes: dict[str, int | Exception] = field(default_factory=dict)
    default: str | None = DIGEST

    async def ping(self) -> None:
        """It is there."""

    async def digest(self, reference: Reference) -> str | None:
        """Return what it was told."""
        return self.digests.get(str(reference), self.default)

    async def size(self, reference: Reference, platform: str) -> int:
        """Return what it was told."""
        assert platform.startswith("linux/")
        size = self.sizes.get(reference.repository, 1000)
        if isinstance(size, Exception):
            raise size
        return size


def lay_out(root: Path) -> Path:
    """Make a project with all that the steps look at; return it."""
    for path, text in {
        "pyproject.toml": '[project]\nname = "slipway"\n',
        "uv.lock": "",
        ".gitignore": "/reports/\n",
        "docs/index.md": "text",
        "pipeline/a.py": "A = 1\n",
        "tests/verify/test_a.py": "",
        "service/Dockerfile": "FROM x\n",
        "service/app.py": "",
        "service/slipway_api/[odd].py": "",
        "nginx/Dockerfile": "FROM y\n",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    (root / "reports").mkdir()
    return root


def make_context(  # noqa: PLR0913 - each has a default
    root: Path,
    fake: FakeDagger,
    *,
    registry: FakeRegistry | None = None,
    elsewhere: FakeRegistry | None = None,
    socket: Socket | None = None,
    login: Login | None = None,
    others: Mapping[str, str] | None = None,
    bundle: str = "",
    **settings: Any,  # noqa: ANN401
) -> Context:
    """Return a run of the project in a folder."""
    given = Settings(root=root, report_dir=root / "reports", **settings)

    async def connection() -> dagger.Client:
        return fake.client

    return Context(
        settings=given,
        engine=Engine("embedded", "0.1.0", "there is no other"),
        bases=Bases("registry", dict(BASES), "auto"),
        source=source.read(root, {}),
        registry=images.parse_registry(given.registry),
        images=cast("context.ImageRegistry", registry or FakeRegistry()),
        elsewhere=lambda _other: cast("context.ImageRegistry", elsewhere or FakeRegistry()),
        login=login,
        socket=socket or Socket(None, "there is no Docker"),
        others=others or {},
        records=cache.Records(root.parent / "records"),
        makers="sha256:0",
        bundle=bundle,
        connection=connection,
    )
