"""Push an image under its tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from pipeline import images, log
from pipeline.context import IMAGES
from pipeline.errors import StepError
from pipeline.steps._recorded import Ran, recorded
from pipeline.task import Image, Key

if TYPE_CHECKING:
    from pipeline.cache import Record
    from pipeline.context import Context
    from pipeline.images import Reference
    from pipeline.task import Outcome

_REFUSALS = ("denied", "unauthorized", "forbidden", "authentication", "credentials")
LIMIT = 600.0
"""Seconds for one push: 200 MB at 3 Mbit/s; a registry that stalls is given up."""


async def push(ctx: Context, image: str) -> Outcome:
    """Push an image under all its tags; `Context.pushed` has it then.

    Raises:
        StepError: The registry does not take it.
    """

    async def confirm(record: Record) -> bool:
        if record.image is None:
            return False
        digest = images.parse(record.image.reference).digest
        for tag in ctx.tags:
            if await ctx.images.digest(ctx.reference(image, tag)) != digest:
                return False
        return True

    outcome = await recorded(
        ctx,
        Key("push", image),
        {
            **ctx.build_args(image, "runtime"),
            "registry": str(ctx.registry),
            "tags": " ".join(ctx.tags),
        },
        lambda: _push(ctx, image),
        files=ctx.source.select(IMAGES[image]),
        confirm=confirm,
    )
    if outcome.image is not None:
        ctx.pushed[image] = outcome.image
    return outcome


async def _push(ctx: Context, image: str) -> Ran:
    import dagger  # 1.2 s that a run in which everything is cached does not cost

    client = await ctx.client()
    # What fails in here is the build's failure, not the registry's.
    await ctx.built(client, image, "runtime")
    container = ctx.with_login(client, ctx.build(client, image, "runtime"))
    service = ctx.registry_service(client, ctx.registry)
    found = ""
    for tag in ctx.tags:
        reference = ctx.reference(image, tag)
        try:
            with anyio.fail_after(LIMIT):
                address = await container.publish(str(reference), registry_service=service)
        except dagger.QueryError as error:
            raise _refused(ctx, reference, str(error)) from error
        except TimeoutError as error:
            raise StepError(
                f"The registry {ctx.registry.address} did not take {reference} in {LIMIT:.0f} s",
                remedy="See whether it is up and has room, then run it again",
            ) from error
        digest = images.parse(address).digest
        # What was pushed is what is verified: under every tag it has to be the same.
        if await ctx.images.digest(reference) != digest or (found and found != digest):
            raise StepError(
                f"The registry {ctx.registry.address} does not have under {reference} what was "
                f"pushed there ({digest})",
                remedy="See whether somebody else pushes under this tag, then run it again",
            )
        found = digest
    pinned = ctx.reference(image, ctx.tag).with_digest(found)
    size = await ctx.images.size(pinned, ctx.platform)
    return Ran(image=Image(image, str(pinned), size, ctx.bases.references[image]))


def _refused(ctx: Context, reference: Reference, text: str) -> StepError:
    """Return the error for a push that the registry did not take."""
    plain = log.printable(text).strip()
    # What was being done is said already, in the words of this step.
    first = plain.partition("\n")[0].removeprefix(f"cannot push {reference}: ").rstrip(".")
    login = any(word in plain.lower() for word in _REFUSALS)
    return StepError(
        f"The registry {ctx.registry.address} did not take {reference}: {first}",
        remedy=(
            "Check PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD, or log in again with "
            f"`docker login {ctx.registry.address}`, and that this user may push there"
            if login
            else "See whether it is up and has room, then run it again"
        ),
        evidence="" if plain.endswith(first) else plain,
    )
