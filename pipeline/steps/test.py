"""Run the tests of an image, in its own ``test`` target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.context import IMAGES
from pipeline.errors import StepError
from pipeline.steps._recorded import Ran, recorded
from pipeline.steps._suite import collect, names
from pipeline.task import Key

if TYPE_CHECKING:
    from pipeline.context import Context
    from pipeline.task import Outcome


async def test(ctx: Context, image: str) -> Outcome:
    """Run the tests of an image; their reports are in the report folder, whatever comes of them.

    Raises:
        StepError: A test failed, or the target cannot be built.
    """
    material = ctx.build_args(image, "test")
    return await recorded(
        ctx,
        Key("test", image),
        material,
        lambda: _test(ctx, image),
        files=ctx.source.select(IMAGES[image]),
    )


async def _test(ctx: Context, image: str) -> Ran:
    import dagger  # 1.2 s that a run in which everything is cached does not cost

    client = await ctx.client()
    built = await ctx.built(client, image, "test")
    # The nonce keeps an engine from repeating an outcome: whether it may is said by our records.
    ran = built.with_env_variable("SLIPWAY_RUN", ctx.nonce).with_exec(
        [], expect=dagger.ReturnType.ANY
    )
    suite = await collect(
        ctx,
        ran,
        {
            f"{image}/junit.xml": "/reports/junit.xml",
            f"{image}/coverage.xml": "/reports/coverage.xml",
        },
        what=f"The tests of {image}",
    )
    if suite.exit_code or suite.failed or not suite.tests:
        suites = suite.suites(ctx.settings.report_dir)
        evidence = "\n".join((*suite.failed, "", suite.output)).strip()
        if suite.failed:
            sentence = f"{len(suite.failed)} of {suite.tests} tests of {image} failed: "
            sentence += names(suite.failed)
        elif not suite.tests:
            sentence = f"No test of {image} ran"
        else:
            sentence = f"The tests of {image} ended with exit code {suite.exit_code}"
        raise StepError(sentence, evidence=evidence, suites=suites)
    return Ran(files=suite.files)
