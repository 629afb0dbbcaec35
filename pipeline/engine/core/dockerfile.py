"""What a Dockerfile depends on besides its context.

A build is remembered from one session to the next only when every image that it names is pinned
by a digest, and nothing is added from elsewhere. Otherwise BuildKit is asked each time, which
looks again.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

_CONTINUATION = re.compile(r"\\[ \t]*\n")
_ARG = re.compile(r"^\s*ARG\s+([A-Za-z_]\w*)(?:=(\S*))?", re.IGNORECASE)
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_OTHER_STAGE = re.compile(r"(?:--from=|[,=]from=)([^\s,]+)")
_ADD = re.compile(r"^\s*ADD\s", re.IGNORECASE)
# A URL or a repository; a variable may stand for one.
_ELSEWHERE = re.compile(r"://|git@|\$")
# https://docs.docker.com/reference/dockerfile/#parser-directives: before the first instruction.
_FRONTEND = re.compile(r"\ufeff?(?:\s*(?:#|//).*\n)*?\s*(?:#|//)\s*syntax\s*=", re.IGNORECASE)
_REFERENCE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")


def _takes_elsewhere(line: str, stages: Collection[str]) -> bool:
    if _ADD.match(line) and _ELSEWHERE.search(line) and "--checksum=" not in line:
        return True
    return any(
        name.lower() not in stages and not name.isdecimal() and "@sha256:" not in name
        for name in _OTHER_STAGE.findall(line)
    )


def pinned(text: str, args: Mapping[str, str]) -> bool:
    """Tell whether all that a Dockerfile takes from elsewhere is given by digest.

    Args:
        text: The Dockerfile.
        args: Build arguments, which go over the defaults in the file.
    """
    if _FRONTEND.match(text):
        return False
    values: dict[str, str] = {}
    stages = {"scratch"}

    def expand(word: str) -> str:
        return _REFERENCE.sub(
            lambda m: values.get(m.group(1) or m.group(3), m.group(2) or ""), word
        )

    started = False
    for line in _CONTINUATION.sub(" ", text).splitlines():
        if not started and (arg := _ARG.match(line)):
            name, default = arg.groups()
            values[name] = args.get(name, expand((default or "").strip("\"'")))
        elif found := _FROM.match(line):
            started = True
            image, stage = expand(found.group(1)), found.group(2)
            if image.lower() not in stages and "@sha256:" not in image:
                return False
            if stage:
                stages.add(stage.lower())
        elif _takes_elsewhere(line, stages):
            return False
    return started
