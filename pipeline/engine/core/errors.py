"""What the engine refuses or fails at, as one tree.

    EngineError
    ├── ExecFailed       a command ended with another exit code than was expected
    ├── NotServed        a field or an argument that this engine does not have
    ├── NotFound         a path, an image or an id that does not exist
    └── BackendError     Docker, BuildKit or a registry failed
        └── BackendGone  Docker does not answer any more

Each becomes one GraphQL error; its message is what a person reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ADVICE = "use Dagger for this (--engine dagger)"


class EngineError(Exception):
    """Base of all errors that a client of the engine is told."""

    @property
    def extensions(self) -> dict[str, object] | None:
        """GraphQL error extensions, from which the SDK makes its own error classes."""
        return None


class ExecFailed(EngineError):
    """A command ended with another exit code than was expected.

    Args:
        cmd: The command with its arguments.
        exit_code: The exit code it ended with.
        stdout: What it wrote to standard output, scrubbed of secrets.
        stderr: What it wrote to standard error, scrubbed of secrets.
    """

    def __init__(self, cmd: Sequence[str], exit_code: int, stdout: str, stderr: str) -> None:
        super().__init__(f'process "{" ".join(cmd)}" ended with exit code {exit_code}')
        self.cmd = tuple(cmd)
        self.exit_code = exit_code
        self.stdout = stdout.removesuffix("\n")
        self.stderr = stderr.removesuffix("\n")

    @property
    def extensions(self) -> dict[str, object]:
        """What dagger-io reads to raise ``dagger.ExecError``."""
        return {
            "_type": "EXEC_ERROR",
            "cmd": list(self.cmd),
            "exitCode": self.exit_code,
            "stdout": self.stdout,
            "stderr": self.stderr,
        }


class NotServed(EngineError):
    """A field or an argument that exists on Dagger and not here.

    Args:
        what: Its name, as ``Container.terminal`` or ``Container.withExec(expand: …)``.
        why: The reason, where there is a better one than that nobody needed it yet.
    """

    def __init__(self, what: str, why: str = "") -> None:
        reason = f": {why}" if why else ""
        super().__init__(f"{what} is not served by the embedded engine{reason}; {ADVICE}")


class NotFound(EngineError):
    """Something that was named does not exist."""


class BackendError(EngineError):
    """Docker, BuildKit or a registry failed."""


class BackendGone(BackendError):
    """The Docker Engine does not answer any more."""
