"""The course of a run, from its settings to its reports.

Rules:

- A run goes: settings, the report folder, what the machine has, the plan, the steps, the reports.
- The reports are written however it ends, as long as their folder can be written; so are those of
  a set-up that fails, which is a run that could not begin. A deployment has a file of its own, and
  leaves those of the run that made its images.
- The first signal (Ctrl-C, SIGTERM, SIGHUP) cancels the run, which then has ten seconds to put away
  what it started; a second one ends the process at once. What is left is removed by the next run.
"""

from __future__ import annotations

import base64
import logging
import os
import shutil
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO, cast

import anyio
from anyio import to_thread

from pipeline import config, flow, log
from pipeline import report as reports
from pipeline.console import open_console
from pipeline.errors import ExitCode, InternalError, PipelineError, PrerequisiteError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from pipeline.config import Settings
    from pipeline.console import Console
    from pipeline.task import Key, Result, Task

_log = logging.getLogger(__name__)

CLEANUP_LIMIT = 9.0
"""Seconds from the signal to the end of the process, at most; the tenth is for the reports."""

_HEARTBEAT = 0.5


@dataclass(frozen=True, slots=True)
class Process:
    """What the operating system gives to a process, so that a test can give it something else.

    Attributes:
        stdout: Standard output.
        stderr: Standard error.
        environ: The environment.
        cwd: The working directory.
        exit_now: Ends the process without another word.
        cleanup_limit: Seconds from a signal to the end of the process, at most.
    """

    stdout: TextIO
    stderr: TextIO
    environ: Mapping[str, str]
    cwd: Path
    exit_now: Callable[[int], object] = os._exit
    cleanup_limit: float = CLEANUP_LIMIT


@dataclass(frozen=True, slots=True)
class Parts:
    """The two parts that a run is made of; a test hands in its own.

    Attributes:
        prepare: Finds what the machine has and holds it open, or raises before the first step.
        plan: Makes the tasks from what ``prepare`` yielded.
    """

    prepare: Callable[[Settings], AbstractAsyncContextManager[Any]]
    plan: Callable[[Any], Sequence[Task]]


def load_parts() -> Parts:
    """Return the real parts; they are imported only when the settings are right."""
    from pipeline import context, steps

    return Parts(prepare=context.prepare, plan=steps.plan)


def run(
    flags: Mapping[str, object], process: Process, *, parts: Callable[[], Parts] = load_parts
) -> int:
    """Run the pipeline, tell how it went, and return the exit code.

    Args:
        flags: What the command line gave, by the names of `config.Settings`.
        process: Where the output goes and where the rest of the settings are.
        parts: What prepares and plans the run.
    """
    return _Course(flags, process).run(parts)


def refuse(
    error: PipelineError, flags: Mapping[str, object], process: Process, *, report: bool = True
) -> int:
    """Tell that nothing runs because of an error, and return the exit code.

    Args:
        error: What is wrong.
        flags: As for `run`; as many as are known.
        process: As for `run`.
        report: Whether it was a run, which is reported in files as well.
    """
    course = _Course(flags, process)
    return course.refuse(error) if report else course.tell(error)


def fail(raised: Exception, process: Process) -> int:
    """Tell of an error that nobody expected, and return the exit code."""
    course = _Course({}, process)
    file = log.save_traceback(raised, None)
    return course.tell(InternalError("the pipeline", raised, traceback=file))


def command(
    name: str,
    flags: Mapping[str, object],
    process: Process,
    arguments: Mapping[str, object] | None = None,
) -> int:
    """Run a command that is no run, and return the exit code.

    Args:
        name: Its name in `COMMANDS`.
        flags: As for `run`.
        process: As for `run`.
        arguments: What it takes beside settings.
    """
    return _Course(flags, process).command(name, arguments or {})


async def _doctor(settings: Settings, console: Console) -> int:
    from pipeline import doctor

    return int(await doctor.doctor(settings, console))


async def _setup(settings: Settings, console: Console) -> int:
    from pipeline import setup

    await setup.setup(settings, say=console.say)
    return 0


async def _down(settings: Settings, console: Console) -> int:
    from pipeline.setup import down

    await down.down(settings, say=console.say)
    return 0


async def _prune(settings: Settings, console: Console) -> int:
    from pipeline import cache
    from pipeline.cluster import local
    from pipeline.engine.core.errors import EngineError
    from pipeline.engine.prune import prune
    from pipeline.setup.docker import Docker

    await to_thread.run_sync(Docker(settings.docker_host).ping)
    home = cache.folder()
    records = home / "steps"
    try:
        freed = await to_thread.run_sync(prune, home / "engine", settings.docker_host)
    except EngineError as raised:
        raise PrerequisiteError(
            f"Nothing was pruned: {raised}", remedy="See `python -m pipeline doctor`"
        ) from raised
    size = sum(file.lstat().st_size for file in records.rglob("*") if file.is_file())
    if records.exists():
        shutil.rmtree(records)
    console.say(
        f"Freed {_amount(freed.docker_bytes)} in Docker ({freed.images} images, {freed.volumes} "
        f"volumes, BuildKit's cache) and {_amount(freed.folder_bytes + size)} in {home}"
    )
    built = await local.prune(console.say)
    stays = f"; a cluster runs on {', '.join(map(str, built.held))}" if built.held else ""
    if built.size or built.held:
        console.say(f"Freed {_amount(built.size)} of what local clusters were built into{stays}")
    return 0


def _amount(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


async def _cluster_up(settings: Settings, console: Console) -> int:
    from pipeline import cluster

    await cluster.up(settings, console.say)
    return 0


async def _cluster_down(settings: Settings, console: Console) -> int:
    from pipeline import cluster

    await cluster.down(settings, console.say)
    return 0


async def _cluster_status(settings: Settings, console: Console) -> int:
    from pipeline import cluster

    return 0 if await cluster.status(settings, console.say) else int(ExitCode.STEP_FAILED)


async def _cluster_prepare(settings: Settings, console: Console) -> int:
    from pipeline import cluster

    await cluster.prepare(settings, console.say)
    return 0


Command = Callable[["Settings", "Console"], Awaitable[int]]

COMMANDS: dict[str, Command] = {
    "doctor": _doctor,
    "setup": _setup,
    "prune": _prune,
    "down": _down,
    "cluster up": _cluster_up,
    "cluster down": _cluster_down,
    "cluster status": _cluster_status,
    "cluster prepare": _cluster_prepare,
}
"""The commands that are about the machine, and no run."""

REPORTED = frozenset({"setup"})
"""Those whose failure is reported in files: what they do is the beginning of a run."""

Deployment = Callable[["Settings", "Console", "Mapping[str, object]"], Awaitable[int]]


def _deployment(name: str) -> Deployment:
    """Return a command of `pipeline.deploy`, which is imported when it is called."""

    async def call(settings: Settings, console: Console, _arguments: Mapping[str, object]) -> int:
        from pipeline import deploy

        body: Callable[[Settings, Console], Awaitable[int]] = getattr(deploy, name)
        return await body(settings, console)

    return call


async def _roll_back(settings: Settings, console: Console, arguments: Mapping[str, object]) -> int:
    from pipeline import deploy

    return await deploy.roll_back(settings, console, cast("int | None", arguments["release"]))


async def _export(settings: Settings, console: Console, arguments: Mapping[str, object]) -> int:
    from pipeline import deploy

    return await deploy.export(settings, console, cast("Path", arguments["file"]))


DEPLOY: dict[str, Deployment] = {
    "deploy apply": _deployment("apply"),
    "deploy render": _deployment("show"),
    "deploy diff": _deployment("diff"),
    "deploy status": _deployment("status"),
    "deploy rollback": _roll_back,
    "deploy releases": _deployment("releases"),
    "deploy remove": _deployment("remove"),
    "deploy export": _export,
}
"""The commands that are about what runs in a cluster."""

RELEASING = frozenset({"deploy apply", "deploy diff", "deploy rollback"})
"""Those of them whose end is kept in a file, for who was not there to see it."""


class _Course:
    def __init__(self, flags: Mapping[str, object], process: Process) -> None:
        self._flags = flags
        self._process = process
        self._recorder = reports.Recorder()
        self._outline = config.outline(flags, process.environ, cwd=process.cwd)
        self._folder = self._outline.report_dir
        self._platform = ""
        self._ended = threading.Event()
        self._console: Console = open_console(
            quiet=self._outline.quiet,
            json=self._outline.json,
            stdout=process.stdout,
            stderr=process.stderr,
            environ=process.environ,
        )

    def run(self, load: Callable[[], Parts]) -> int:
        try:
            settings = self._reported_settings()
        except PipelineError as wrong:
            return self.refuse(wrong)
        self._platform = settings.platform
        stop = _Stop(self._process, self._console.stopping, self._give_up)
        error: PipelineError | None = None
        try:
            anyio.run(self._conduct, settings, load, stop)
        except KeyboardInterrupt:
            # Before the loop listens to signals, and after.
            stop.signum = stop.signum or signal.SIGINT
        except Exception as raised:  # noqa: BLE001 - the one place where everything is caught
            error = self._only(raised)
        return self._end(stop.signum, error)

    def refuse(self, error: PipelineError) -> int:
        """Report and tell an error that came before the run."""
        self._clear()
        return self._end(None, error)

    def _clear(self) -> None:
        """Make room for the reports of what went wrong before there was a run."""
        if self._folder:
            try:
                config.prepare_report_dir(self._folder)
                reports.clear(self._folder)
            except (PipelineError, OSError):
                # Either this is the error, or there is a more important one to tell.
                self._folder = None

    def tell(self, error: PipelineError) -> int:
        """Tell an error, and leave the reports as they are."""
        self._console.error(error)
        return int(error.exit_code)

    def command(self, name: str, arguments: Mapping[str, object]) -> int:
        """Run a command that is no run."""
        stop = _Stop(self._process, self._console.stopping, self._abandon)
        code = 0
        error: PipelineError | None = None
        try:
            code = anyio.run(self._command, name, self._settings(), arguments, stop)
        except KeyboardInterrupt:
            # Before the loop listens to signals, and after.
            stop.signum = stop.signum or signal.SIGINT
        except Exception as raised:  # noqa: BLE001 - the one place where everything is caught
            if name in REPORTED:
                self._clear()
                return self._end(stop.signum, self._only(raised))
            if name not in RELEASING:
                self._folder = None
            error = self._only(raised)
        if name in RELEASING:
            self._record(name, stop.signum, error)
        self._ended.set()
        if error is not None:
            return self.tell(error)
        self._console.close()
        return code if stop.signum is None else 128 + stop.signum

    def _record(self, name: str, signum: int | None, error: PipelineError | None) -> None:
        """Write how a command that is about a release ended, where its images were reported."""
        if self._folder is None:
            return
        try:
            config.prepare_report_dir(self._folder)
            reports.write_deploy(self._report(signum, error), name, self._folder)
        except (PipelineError, OSError) as raised:
            # What it did is done: this changes neither that nor the exit code.
            self._console.note(f"{self._folder / reports.DEPLOY_NAME} was not written: {raised}")

    async def _command(
        self, name: str, settings: Settings, arguments: Mapping[str, object], stop: _Stop
    ) -> int:
        code = 0
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                await group.start(stop.listen, scope)
                if name in COMMANDS:
                    code = await COMMANDS[name](settings, self._console)
                else:
                    code = await DEPLOY[name](settings, self._console, arguments)
            group.cancel_scope.cancel()
        return code

    def _abandon(self, signum: int) -> None:
        """End a command that takes too long to put things away; as `_give_up`."""
        if not self._ended.is_set():
            self._console.close()
            self._console.note(
                f"Not everything was put away within {self._process.cleanup_limit:.0f} s"
            )
        self._process.exit_now(128 + signum)

    def _reported_settings(self) -> Settings:
        settings = self._settings()
        config.prepare_report_dir(settings.report_dir)
        try:
            reports.clear(settings.report_dir)
        except OSError as raised:
            raise config.unwritable(settings.report_dir, raised) from raised
        return settings

    def _settings(self) -> Settings:
        password = self._process.environ.get("PIPELINE_REGISTRY_PASSWORD", "")
        log.conceal(password)
        settings = config.load(self._flags, self._process.environ, cwd=self._process.cwd)
        if settings.registry_password:
            # HTTP basic authentication and Docker's configuration write it in this form.
            pair = f"{settings.registry_user}:{settings.registry_password}"
            log.conceal(base64.b64encode(pair.encode()).decode())
        log.configure(settings.log_level)
        return settings

    async def _conduct(self, settings: Settings, load: Callable[[], Parts], stop: _Stop) -> None:
        async with anyio.create_task_group() as group:
            with anyio.CancelScope() as scope:
                await group.start(stop.listen, scope)
                group.start_soon(_beat, self._console)
                self._console.begin("looking for an engine")
                parts = load()
                async with parts.prepare(settings) as found:
                    self._recorder.surroundings = found
                    self._console.found(found)
                    await flow.run(
                        parts.plan(found),
                        jobs=settings.jobs,
                        observer=_Both(self._recorder, self._console),
                        began=self._recorder.began,
                        translate=self._translate,
                    )
                    self._console.begin("putting things away")
            group.cancel_scope.cancel()

    def _translate(self, where: str, raised: BaseException) -> PipelineError:
        file = log.save_traceback(raised, self._folder)
        return InternalError(where, raised, traceback=file)

    def _only(self, raised: Exception) -> PipelineError:
        """Return the error to tell, out of what may be a group of them."""
        found = flow.leaves(raised)
        known = [error for error in found if isinstance(error, PipelineError)]
        return known[0] if known else self._translate("the run", found[0])

    def _end(self, signum: int | None, error: PipelineError | None) -> int:
        """Write the reports and tell the result."""
        report = self._report(signum, error)
        files: tuple[Path, ...] = ()
        if self._folder:
            try:
                files = reports.write(report, self._folder)
            except OSError as raised:
                unwritten = config.unwritable(self._folder, raised)
                error = error or unwritten
                report = self._report(signum, error)
        self._console.finish(report, files, error)
        self._ended.set()
        return report.exit_code

    def _report(self, signum: int | None, error: PipelineError | None) -> reports.Report:
        code = int(error.exit_code) if error else flow.exit_code(self._recorder.results)
        cause = reports.told(error.message, error.remedy) if error else ""
        if signum is not None:
            code = 128 + signum
            cause = f"Stopped by {signal.Signals(signum).name}."
        return self._recorder.report(
            code,
            platform=self._platform,
            cause=cause,
            evidence=error.evidence if error and signum is None else "",
        )

    def _give_up(self, signum: int) -> None:
        """End the process: what was to be put away took too long. Runs in a thread of its own."""
        if not self._ended.is_set():
            self._console.close()
            self._console.note(
                f"Not everything was put away within {self._process.cleanup_limit:.0f} s: "
                "the next run removes what is left."
            )
            self._end(signum, None)
        self._process.exit_now(128 + signum)


class _Stop:
    """Turns the first signal into a cancellation, and the second into the end.

    Attributes:
        signum: The signal that came; None as long as none did.
    """

    def __init__(
        self,
        process: Process,
        tell: Callable[[], None],
        give_up: Callable[[int], None],
    ) -> None:
        self.signum: int | None = None
        self._signals = [signal.SIGINT, signal.SIGTERM]
        # Under `nohup` it stays ignored.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            self._signals.append(signal.SIGHUP)
        self._exit_now = process.exit_now
        self._limit = process.cleanup_limit
        self._tell = tell
        self._give_up = give_up

    async def listen(
        self, scope: anyio.CancelScope, *, task_status: anyio.abc.TaskStatus[None]
    ) -> None:
        """Wait for signals, and cancel ``scope`` at the first."""
        with anyio.open_signal_receiver(*self._signals) as received:
            task_status.started()
            async for signum in received:
                if self.signum is not None:
                    self._exit_now(128 + signum)
                self.signum = int(signum)
                self._tell()
                # Daemonic: should a thread of somebody's keep the process from ending, this
                # still runs; and it keeps nothing from ending itself.
                timer = threading.Timer(self._limit, self._give_up, (self.signum,))
                timer.daemon = True
                timer.start()
                # From here the loop may be busy with putting away: do not depend on it.
                for each in self._signals:
                    signal.signal(each, lambda number, _frame: self._exit_now(128 + number))
                scope.cancel()


class _Both:
    """Passes what happens on to the record and to the screen."""

    def __init__(self, *observers: flow.Observer) -> None:
        self._observers = observers

    def planned(self, tasks: Sequence[Task]) -> None:
        for observer in self._observers:
            observer.planned(tasks)

    def started(self, key: Key) -> None:
        for observer in self._observers:
            observer.started(key)

    def ended(self, result: Result) -> None:
        for observer in self._observers:
            observer.ended(result)


async def _beat(console: Console) -> None:
    while True:
        await anyio.sleep(_HEARTBEAT)
        console.tick()
