"""Look into an image that was pushed: who it runs as, what it carries, what it says of itself."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import images
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import dagger

    from pipeline.context import Context
    from pipeline.images import Reference

SIZE_LIMITS = {"api": 50_000_000}
"""Bytes, unpacked, that an image may have over its base."""

_LABEL = "org.opencontainers.image."
_KINDS = {
    "setuid": "no setuid or setgid bits",
    "leftover": "no build tool, pip or package cache",
    "changeable": "nothing that its user could change",
}
# One line for each thing found, its kind first. /proc and the like are other file systems.
_LOOK = r"""
find / -xdev -type f -perm /6000 -printf 'setuid %p\n'
find / -xdev \( -name pip -o -name 'pip[0-9]*' -o -name 'pip-*.dist-info' -o -name ensurepip \
    -o -name '*.whl' \) -printf 'leftover %p\n'
find / -xdev -type f -perm /111 \( -name uv -o -name gcc -o -name cc -o -name make -o -name ld \
    -o -name cargo -o -name go \) -printf 'leftover %p\n'
for folder in /root/.cache /var/lib/apt/lists /var/cache/apt; do
    [ ! -d "$folder" ] || find "$folder" -type f -printf 'leftover %p\n'
done
find / -xdev ! -type l \( -user "$1" -o -group "$1" -o \( -perm -0002 ! -perm -1000 \) \) \
    -printf 'changeable %p\n'
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule for one image.

    Attributes:
        name: The image and the rule.
        problem: How it is broken, in a few words; empty when it holds.
        evidence: The whole of it.
        skipped: Why it could not be examined; empty when it could.
    """

    name: str
    problem: str = ""
    evidence: str = ""
    skipped: str = ""


async def inspect(
    ctx: Context, name: str, container: dagger.Container, reference: Reference
) -> list[Check]:
    """Examine an image.

    Args:
        ctx: The run.
        name: The image's short name.
        container: The image as it was pulled, unchanged.
        reference: Where it was pulled from.
    """
    user = await container.user()
    uid = user.partition(":")[0]
    numeric = re.fullmatch(r"[0-9]+(:[0-9]+)?", user) is not None
    bad = "" if numeric and int(uid) else f"it is {user!r}"
    checks = [Check(f"{name}: a numeric user other than root", bad)]
    looking = container.with_user("0:0")
    if "verify" in ctx.settings.fresh:
        looking = looking.with_env_variable("SLIPWAY_RUN", ctx.nonce)
    found = await looking.with_exec(
        ["sh", "-c", _LOOK, "look", uid if numeric and int(uid) else "10001"]
    ).stdout()
    for kind, rule in _KINDS.items():
        paths = [line.partition(" ")[2] for line in found.splitlines() if line.startswith(kind)]
        problem = f"{len(paths)} found, {paths[0]} first" if paths else ""
        checks.append(Check(f"{name}: {rule}", problem, "\n".join(paths)))
    checks.append(await _labels(ctx, name, container))
    if name in SIZE_LIMITS:
        checks.append(await _size(ctx, name, reference))
    return checks


async def _labels(ctx: Context, name: str, container: dagger.Container) -> Check:
    expected = {"title": f"slipway-{name}", "version": ctx.tag}
    if name in ctx.pushed:
        expected |= {
            "revision": ctx.revision,
            "created": ctx.source.created,
            "base.name": ctx.bases.references[name],
        }
    wrong = []
    for label, value in expected.items():
        got = await container.label(f"{_LABEL}{label}")
        if (got or "") != value:
            wrong.append(f"{_LABEL}{label} is {got!r} and should be {value!r}")
    first = wrong[0] if wrong else ""
    return Check(f"{name}: OCI labels", first, "\n".join(wrong))


async def _size(ctx: Context, name: str, reference: Reference) -> Check:
    title = f"{name}: at most {SIZE_LIMITS[name] / 1e6:.0f} MB over its base"
    base = images.parse(ctx.bases.references[name])
    try:
        under = await ctx.registry_of(base).size(base, ctx.platform)
    except PipelineError as error:
        return Check(title, skipped=f"the size of {base} cannot be had: {error.message}")
    over = await ctx.images.size(reference, ctx.platform) - under
    problem = f"it has {over / 1e6:.1f} MB" if over > SIZE_LIMITS[name] else ""
    return Check(title, problem)


def write(
    report_dir: Path, file: str, checks: Mapping[str, list[Check]], skipped: Mapping[str, str]
) -> str:
    """Write the checks as a JUnit file and return ``file``.

    Args:
        report_dir: The report folder.
        file: A path relative to it.
        checks: The checks of each image.
        skipped: Whole phases that could not run, with why.
    """
    suite = ET.Element("testsuite", name="verify images")
    every = [check for name in sorted(checks) for check in checks[name]]
    every += [Check(phase, skipped=why) for phase, why in skipped.items()]
    for check in every:
        case = ET.SubElement(suite, "testcase", classname="verify.images", name=check.name)
        if check.problem:
            ET.SubElement(case, "failure", message=check.problem).text = check.evidence
        if check.skipped:
            ET.SubElement(case, "skipped", message=check.skipped)
    suite.set("tests", str(len(every)))
    suite.set("failures", str(sum(bool(check.problem) for check in every)))
    suite.set("skipped", str(sum(bool(check.skipped) for check in every)))
    path = report_dir / file
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    return file
