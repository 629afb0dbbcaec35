"""What a Dockerfile depends on besides its context.

A build is remembered from one session to the next only when every image that it names is pinned
by a digest. Otherwise BuildKit is asked each time, which looks the tags up.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_CONTINUATION = re.compile(r"\\[ \t]*\n")
_ARG = re.compile(r"^\s*ARG\s+([A-Za-z_]\w*)(?:=(\S*))?", re.IGNORECASE)
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)*(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_OTHER_STAGE = re.compile(r"(?:--from=|[,=]from=)([^\s,]+)")
_REFERENCE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")


def pinned(text: str, args: Mapping[str, str]) -> bool:
    """Tell whether all images that a Dockerfile names are given by digest.

    Args:
        text: The Dockerfile.
        args: Build arguments, which go over the defaults in the file.
    """
    if re.match(r"#\s*syntax\s*=", text):
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
        else:
            for name in _OTHER_STAGE.findall(line):
                if name.lower() not in stages and not name.isdecimal() and "@sha256:" not in name:
                    return False
    return started
