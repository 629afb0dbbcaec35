"""``python -m pipeline``: arguments, and the exit code.

The commands import what they need when they are called, so that ``--help`` and an error in a flag
answer at once.
"""

from __future__ import annotations

import difflib
import io
import os
import signal
import sys
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, cast

# Another Python than that of our environment has none of them, or some for reasons of its own.
_missing = [name for name in ("click", "anyio", "dagger", "docker") if not find_spec(name)]
if _missing:
    sys.stderr.write(
        f"error: {sys.executable} does not have what the pipeline needs ({_missing[0]}). Run "
        "`make environment`, then `. .venv/bin/activate`.\n"
    )
    raise SystemExit(3)

import click  # noqa: E402 - only now it is known to be there

from pipeline import config  # noqa: E402 - the same
from pipeline.errors import UsageError  # noqa: E402 - the same

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.config import Setting
    from pipeline.course import Parts, Process

PROGRAM = "python -m pipeline"
COMMANDS = {
    "run": "Lint, test, build, push and verify the images (implied).",
    "doctor": "Show what this machine has, and how to get what is missing.",
    "setup": "Set up what a run needs: Docker, base images and a registry.",
    "prune": "Remove what runs have kept, and say how much room that gave.",
    "down": "Stop what set-up started, and nothing else.",
    "deploy": "Bring the pushed images to Kubernetes, and wait until they serve and scale.",
    "cluster": "Have a Kubernetes on this machine, or prepare one.",
}
SUBCOMMANDS = {
    "deploy": {
        "apply": "Apply, wait until all is ready, ask for the list, and take it back when it "
        "fails (implied).",
        "render": "Print what would be applied; asks no cluster.",
        "diff": "Show what would change, by a dry run on the server.",
        "status": "Show what runs: release, images, replicas, scaling, warnings.",
        "rollback": "Bring back release N, or the one before the one that runs.",
        "releases": "List the releases that are recorded.",
        "remove": "Delete everything that was deployed.",
        "export": "Write the release that runs, with its images, into one FILE.",
    },
    "cluster": {
        "up": "Start a cluster on this machine.",
        "down": "Take back what up did.",
        "status": "Show how the cluster on this machine is.",
        "prepare": "Install metrics-server and KEDA in a cluster where they are missing.",
    },
}
"""The commands that have commands of their own, and those."""
IMPLIED = {"deploy": "apply"}
"""What is meant when no subcommand is named."""

_STEPS_HELP = f"STEP is {', '.join(config.STEPS[:-1])} or {config.STEPS[-1]}, and brings with it \
the steps that it needs; without one, all run."
_SETTINGS_HELP = """\
Each option is an environment variable and a key of [tool.pipeline] in pyproject.toml as well: \
--report-dir is PIPELINE_REPORT_DIR and report-dir. The option counts before the variable, the \
variable before the key."""
_CREDENTIAL_HELP = """\
The registry's user and password are PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD, or \
else those of `docker login`."""
_EXIT_HELP = """\
Exit codes: 0 done; 1 a step failed; 2 usage or configuration; 3 the machine lacks something, \
found before the first step; 130 and 143 stopped by Ctrl-C and SIGTERM."""


class _Program(click.Group):
    """A group in which ``run`` is implied, and whose help shows what ``run`` takes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in {*self.commands, "--help", "-h", "--version"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        formatter.write_usage(PROGRAM, "[run] [STEP]... [OPTIONS]")
        formatter.write_usage(PROGRAM, "COMMAND [OPTIONS]", prefix="       ")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        run = self.commands["run"]
        run.format_options(click.Context(run, parent=ctx), formatter)
        self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        _write_paragraphs(formatter, (_SETTINGS_HELP, _CREDENTIAL_HELP, _EXIT_HELP))


class _Family(click.Group):
    """A command with commands of its own, of which one may be implied."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        implied = IMPLIED.get(str(self.name))
        first = args[0] if args else ""
        if implied and first not in ("--help", "-h") and (not first or first.startswith("-")):
            args = [implied, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            raise _Unknown(str(self.name), args[0], list(self.commands))
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        implied = IMPLIED.get(str(self.name))
        if implied:
            formatter.write_usage(f"{PROGRAM} {self.name}", f"[{implied}] [OPTIONS]")
            formatter.write_usage(f"{PROGRAM} {self.name}", "COMMAND [OPTIONS]", prefix="       ")
        else:
            formatter.write_usage(f"{PROGRAM} {self.name}", "COMMAND [OPTIONS]")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        implied = IMPLIED.get(str(self.name))
        if implied:
            command = self.commands[implied]
            command.format_options(click.Context(command, parent=ctx), formatter)
        self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        _write_paragraphs(formatter, (_SETTINGS_HELP, _EXIT_HELP))


class _Unknown(click.UsageError):
    """A subcommand that is not there."""

    def __init__(self, family: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"Unknown command {name!r} of {family}")
        close = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        self.remedy = f"{hint}Choose from {', '.join(known)}"


class _Command(click.Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        _write_paragraphs(formatter, (_SETTINGS_HELP, _EXIT_HELP))


def _write_paragraphs(formatter: click.HelpFormatter, texts: Sequence[str]) -> None:
    for text in texts:
        formatter.write_paragraph()
        formatter.write_text(text)


def _run(process: Process, parts: Parts | None, **flags: object) -> int:
    from pipeline import course

    wrong = _misplaced(flags)
    if wrong:
        return course.refuse(wrong, flags, process)
    return course.run(flags, process, parts=(lambda: parts) if parts else course.load_parts)


def _misplaced(flags: Mapping[str, object]) -> UsageError | None:
    """Return the error for a command that was taken for a step, because ``run`` is implied."""
    words = cast("tuple[str, ...]", flags.get("steps") or ())
    for word in words:
        if word in COMMANDS:
            return UsageError(
                f"{word} is a command, not a step", remedy=f"Write it first: {PROGRAM} {word}"
            )
    if words and words[0] not in config.STEPS:
        close = difflib.get_close_matches(words[0], (*config.STEPS, *COMMANDS), 1)
        if close and close[0] in COMMANDS:
            return UsageError(
                f"Unknown step or command {words[0]!r}", remedy=f"Did you mean {close[0]!r}?"
            )
    return None


def program() -> click.Group:
    """Return the command line: each command with the settings that it takes."""
    group = _Program(
        name="pipeline",
        help=f"Slipway: one pipeline, from source to verified, pushed images. {_STEPS_HELP}",
        context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    )
    for name, text in COMMANDS.items():
        if name not in SUBCOMMANDS:
            group.add_command(_command(name, name, text))
            continue
        family = _Family(name, help=text, short_help=text, invoke_without_command=False)
        for own, what in SUBCOMMANDS[name].items():
            family.add_command(_command(own, f"{name} {own}", what))
        group.add_command(family)
    return click.version_option(package_name="slipway", message="%(version)s")(group)


def _command(name: str, full: str, text: str) -> click.Command:
    """Return a command with the settings that it takes, and what it takes beside them."""
    params = [_parameter(setting) for setting in config.SETTINGS if full in setting.commands]
    return _Command(
        name,
        callback=_callback(full),
        params=[*_arguments(full), *(param for param in params if param)],
        help=f"{text} {_STEPS_HELP}" if full == "run" else text,
        short_help=text,
    )


def _arguments(full: str) -> list[click.Parameter]:
    """Return what a command takes that is no setting: it makes sense for this call alone."""
    if full == "deploy rollback":
        number = click.IntRange(min=1)
        return [click.Argument(["release"], required=False, type=number, metavar="[N]")]
    if full == "deploy export":
        file = click.Path(path_type=Path, dir_okay=False)
        return [click.Argument(["file"], type=file, metavar="FILE")]
    return []


def _callback(name: str) -> Callable[..., int]:
    @click.pass_obj
    def call(obj: tuple[Process | None, Parts | None], /, **flags: object) -> int:
        process = obj[0] or _this_process()
        parts = obj[1]
        if name == "run":
            return _run(process, parts, **flags)
        from pipeline import course

        own = {each.name for each in _arguments(name)}
        arguments = {key: flags.pop(key) for key in list(flags) if key in own}
        return course.command(name, flags, process, arguments)

    return call


def _parameter(setting: Setting) -> click.Parameter | None:
    """Return what takes a setting from the command line; None when nothing may."""
    if setting.name == "steps":
        return click.Argument([setting.name], nargs=-1, metavar="[STEP]...")
    if not setting.flag:
        return None
    name = setting.flag.removeprefix("--")
    if setting.kind == "switch":
        # No default: an option that was not given must not hide a variable.
        return click.Option(
            [f"--{name}/--no-{name}", setting.name], default=None, help=f"{setting.help}."
        )
    return click.Option(
        [setting.flag, setting.name],
        multiple=setting.kind in ("list", "choices", "paths"),
        metavar=setting.metavar,
        help=f"{setting.help}.  [{setting.default}]",
    )


def main(
    argv: Sequence[str] | None = None,
    *,
    process: Process | None = None,
    parts: Parts | None = None,
) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: The arguments; those of this process when None.
        process: What the operating system gives; that of this process when None.
        parts: What prepares and plans a run; the real ones when None.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        obj = (process, parts)
        return int(program().main(arguments, PROGRAM, standalone_mode=False, obj=obj) or 0)
    except click.ClickException as raised:
        from pipeline import course

        is_run = not arguments or arguments[0] == "run" or arguments[0] not in COMMANDS
        here = process or _this_process()
        return course.refuse(_translated(raised), _flags_of(arguments), here, report=is_run)
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except Exception as raised:  # noqa: BLE001 - nothing passes but as a sentence
        from pipeline import course

        return course.fail(raised, process or _this_process())


def _this_process() -> Process:
    from pipeline.course import Process

    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal does not have must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Process(stdout=sys.stdout, stderr=sys.stderr, environ=os.environ, cwd=Path.cwd())


def _translated(raised: click.ClickException) -> UsageError:
    """Return click's error as ours."""
    ctx = raised.ctx if isinstance(raised, click.UsageError) else None
    path = ctx.command_path if ctx else PROGRAM
    if isinstance(raised, click.exceptions.NoArgsIsHelpError) and ctx and ctx.info_name:
        known = ", ".join(SUBCOMMANDS.get(ctx.info_name, COMMANDS))
        return UsageError(f"{ctx.info_name} needs a command", remedy=f"Choose from {known}")
    if isinstance(raised, _Unknown):
        return UsageError(raised.message, remedy=raised.remedy)
    if isinstance(raised, click.NoSuchOption):
        close = [f"Did you mean {name}? " for name in (raised.possibilities or ())[:1]]
        return UsageError(
            f"Unknown option {raised.option_name!r}",
            remedy=f"{''.join(close)}{path} --help shows those that there are",
        )
    message = raised.format_message().rstrip(".")
    return UsageError(message, remedy=f"{path} --help shows how it is written")


def _flags_of(arguments: Sequence[str]) -> dict[str, object]:
    """Return what is needed to report that the arguments cannot be parsed, out of them."""
    flags: dict[str, object] = {}
    for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
        name, _, value = argument.partition("=")
        if name == "--report-dir" and (value or following):
            flags["report_dir"] = value or following
        elif name in ("--quiet", "--json"):
            flags[name.removeprefix("--")] = True
    return flags


if __name__ == "__main__":
    sys.exit(main())
