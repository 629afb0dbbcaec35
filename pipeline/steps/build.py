"""Build the ``runtime`` target of an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.context import IMAGES
from pipeline.steps._recorded import Ran, recorded
from pipeline.task import Key

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.task import Outcome


async def build(ctx: Context, image: str) -> Outcome:
    """Build an image.

    Raises:
        StepError: It cannot be built; the failing instruction and its output are the evidence.
    """

    async def run() -> Ran:
        client = await ctx.client()
        await ctx.built(client, image, "runtime")
        return Ran()

    return await recorded(
        ctx,
        Key("build", image),
        ctx.build_args(image, "runtime"),
        run,
        files=ctx.source.select(IMAGES[image]),
    )
