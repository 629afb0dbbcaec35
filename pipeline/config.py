"""The settings of a run: flags over environment over pyproject.toml over defaults.

``SETTINGS`` is the one table of them. The command line, the loader and the documentation's tests
are made from it, so that a setting exists everywhere or nowhere. A value is refused with the name
of the place that it came from, and so is a variable or a key that nothing reads.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pipeline import images as references
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_log = logging.getLogger(__name__)

STEPS = ("lint", "test", "build", "push", "verify")
IMAGES = ("api", "nginx")
ENGINES = ("auto", "dagger", "embedded")
BASES = ("auto", "registry", "debian")
LOG_LEVELS = ("debug", "info", "warning", "error")
PROVIDERS = ("minikube", "local")
DEFAULT_REGISTRY = "127.0.0.1:5050"
DEFAULT_DOCKER_HOST = "unix:///var/run/docker.sock"
DEFAULT_OVERLAY = "minikube"
DEFAULT_NAMESPACE = "slipway"
DEFAULT_TIMEOUT = 300
DEFAULT_KEDA = "https://github.com/kedacore/keda/releases/download/v2.21.0/keda-2.21.0.yaml"

PREFIX = "PIPELINE_"
FOREIGN = frozenset({"PIPELINE_WORKSPACE"})
"""Variables with our prefix that are another program's: Azure Pipelines sets this one."""

_SYSTEM_CA = Path("/etc/ssl/certs/ca-certificates.crt")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/v[0-9]+)?")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

Kind = Literal["text", "list", "choice", "choices", "number", "switch", "path", "paths"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting, as a person may give it.

    Attributes:
        name: The field of `Settings` that it ends in.
        flag: The option on the command line, ``STEP`` for the positional one; empty when it may
            not be given there.
        variable: The environment variable.
        key: The key in ``[tool.pipeline]``; empty when it may not be given there.
        kind: How its text is read.
        default: What holds when nobody says anything, as a person reads it.
        help: One sentence without a full stop.
        metavar: What stands for the value in the help.
        choices: The values that it may have; empty when any.
        commands: The commands that take it as an option.
    """

    name: str
    flag: str
    variable: str
    key: str
    kind: Kind
    default: str
    help: str
    metavar: str = ""
    choices: tuple[str, ...] = ()
    commands: frozenset[str] = frozenset({"run"})


_MACHINE = frozenset({"run", "doctor", "setup", "prune", "down"})
_FIND = frozenset({"deploy apply", "deploy render", "deploy diff"})
"""The commands that look for images and make manifests of them."""
_CHANGE = frozenset({"deploy apply", "deploy rollback", "deploy remove"})
_DEPLOY = _FIND | _CHANGE | {"deploy status", "deploy releases", "deploy export"}
_IMAGES = _FIND | {"deploy rollback", "deploy export"}
"""The commands that ask the registry, or tell the nodes how to."""
_CLUSTER = frozenset({"cluster up", "cluster down", "cluster status", "cluster prepare"})

SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="steps",
        flag="STEP",
        variable="PIPELINE_STEPS",
        key="steps",
        kind="choices",
        default="all",
        help="The steps to run, with what they need",
        choices=STEPS,
    ),
    Setting(
        name="images",
        flag="--image",
        variable="PIPELINE_IMAGE",
        key="image",
        kind="choices",
        default="all",
        help="Only this image (repeatable)",
        metavar="NAME",
        choices=IMAGES,
    ),
    Setting(
        name="registry",
        flag="--registry",
        variable="PIPELINE_REGISTRY",
        key="registry",
        kind="text",
        default=DEFAULT_REGISTRY,
        help="Where the images are pushed to",
        metavar="HOST[:PORT][/NAMESPACE]",
        commands=_MACHINE | _IMAGES | _CLUSTER,
    ),
    Setting(
        name="tags",
        flag="--tag",
        variable="PIPELINE_TAG",
        key="tag",
        kind="list",
        default="from git describe",
        help="A tag to push under beside the one from git (repeatable)",
        metavar="TAG",
    ),
    Setting(
        name="engine",
        flag="--engine",
        variable="PIPELINE_ENGINE",
        key="engine",
        kind="choice",
        default="auto",
        help="What runs the steps: auto, dagger or embedded",
        metavar="ENGINE",
        choices=ENGINES,
        commands=frozenset({"run", "doctor"}),
    ),
    Setting(
        name="bases",
        flag="--bases",
        variable="PIPELINE_BASES",
        key="bases",
        kind="choice",
        default="auto",
        help="Where base images come from: auto, registry or debian",
        metavar="KIND",
        choices=BASES,
        commands=frozenset({"run", "doctor", "setup"}),
    ),
    Setting(
        name="fresh",
        flag="--fresh",
        variable="PIPELINE_FRESH",
        key="fresh",
        kind="choices",
        default="none",
        help="Run this step even when nothing changed (repeatable, or all)",
        metavar="STEP",
        choices=(*STEPS, "all"),
    ),
    Setting(
        name="report_dir",
        flag="--report-dir",
        variable="PIPELINE_REPORT_DIR",
        key="report-dir",
        kind="path",
        default="reports",
        help="The folder that the reports are written to",
        metavar="DIR",
        commands=frozenset({"run", "setup"}) | _FIND,
    ),
    Setting(
        name="platform",
        flag="--platform",
        variable="PIPELINE_PLATFORM",
        key="platform",
        kind="text",
        default="this machine's",
        help="The platform to build for",
        metavar="OS/ARCH[/VARIANT]",
    ),
    Setting(
        name="jobs",
        flag="--jobs",
        variable="PIPELINE_JOBS",
        key="jobs",
        kind="number",
        default="twice the processors",
        help="How many steps may run at once",
        metavar="N",
    ),
    Setting(
        name="quiet",
        flag="--quiet",
        variable="PIPELINE_QUIET",
        key="quiet",
        kind="switch",
        default="no",
        help="Print the final result and errors only",
        commands=frozenset({"run"}) | _CHANGE,
    ),
    Setting(
        name="json",
        flag="--json",
        variable="PIPELINE_JSON",
        key="json",
        kind="switch",
        default="no",
        help="Print the result as JSON on standard output, and nothing else there",
        commands=frozenset({"run", "doctor"}),
    ),
    Setting(
        name="docker_host",
        flag="--docker-host",
        variable="PIPELINE_DOCKER_HOST",
        key="docker-host",
        kind="text",
        default=f"DOCKER_HOST, else {DEFAULT_DOCKER_HOST}",
        help="The Docker Engine to use",
        metavar="URL",
        commands=_MACHINE | _CLUSTER,
    ),
    Setting(
        name="ca",
        flag="--ca",
        variable="PIPELINE_CA",
        key="ca",
        kind="path",
        default="SSL_CERT_FILE, else the system's",
        help="The CA bundle for downloads within builds",
        metavar="FILE",
        commands=frozenset({"run", "doctor", "setup"}) | _IMAGES | _CLUSTER,
    ),
    Setting(
        name="registry_user",
        flag="--registry-user",
        variable="PIPELINE_REGISTRY_USER",
        key="registry-user",
        kind="text",
        default="from Docker's credential store",
        help="The user at the registry; the password is read from PIPELINE_REGISTRY_PASSWORD",
        metavar="NAME",
        commands=frozenset({"run", "doctor"}) | _IMAGES,
    ),
    Setting(
        name="registry_password",
        flag="",
        variable="PIPELINE_REGISTRY_PASSWORD",
        key="",
        kind="text",
        default="from Docker's credential store",
        help="The password at the registry; an environment variable only, so that it is in no "
        "list of processes and no file",
        commands=frozenset({"run", "doctor"}) | _IMAGES,
    ),
    Setting(
        name="log_level",
        flag="--log",
        variable="PIPELINE_LOG",
        key="log",
        kind="choice",
        default="warning",
        help="What is logged on standard error: debug, info, warning or error",
        metavar="LEVEL",
        choices=LOG_LEVELS,
        commands=_MACHINE | _DEPLOY | _CLUSTER,
    ),
    Setting(
        name="context",
        flag="--context",
        variable="PIPELINE_CONTEXT",
        key="context",
        kind="text",
        default="the kubeconfig's current one",
        help="The context in the kubeconfig, which names the cluster",
        metavar="NAME",
        commands=_DEPLOY | _CLUSTER,
    ),
    Setting(
        name="overlay",
        flag="--overlay",
        variable="PIPELINE_OVERLAY",
        key="overlay",
        kind="text",
        default=DEFAULT_OVERLAY,
        help="The overlay to deploy: a name under k8s/overlays, or a folder",
        metavar="NAME|DIR",
        commands=_FIND,
    ),
    Setting(
        name="namespace",
        flag="--namespace",
        variable="PIPELINE_NAMESPACE",
        key="namespace",
        kind="text",
        default=DEFAULT_NAMESPACE,
        help="The namespace to deploy to",
        metavar="NAME",
        commands=_DEPLOY,
    ),
    Setting(
        name="image_files",
        flag="--images",
        variable="PIPELINE_IMAGES",
        key="",
        kind="paths",
        default="report.json of the last run",
        help="A report.json that names images to deploy (repeatable: what they name is merged)",
        metavar="FILE",
        commands=_FIND,
    ),
    Setting(
        name="deploy_tag",
        flag="--tag",
        variable="PIPELINE_DEPLOY_TAG",
        key="",
        kind="text",
        default="none",
        help="The tag in the registry whose images are deployed, in the place of a report's",
        metavar="TAG",
        commands=_FIND,
    ),
    Setting(
        name="pull_from",
        flag="--pull-from",
        variable="PIPELINE_PULL_FROM",
        key="pull-from",
        kind="text",
        default="the registry",
        help="The registry as the nodes of the cluster see it",
        metavar="HOST[:PORT]",
        commands=_FIND,
    ),
    Setting(
        name="archive",
        flag="--from",
        variable="PIPELINE_FROM",
        key="",
        kind="path",
        default="none",
        help="A file that `deploy export` wrote, to restore its release and push its images",
        metavar="FILE",
        commands=_FIND,
    ),
    Setting(
        name="yes",
        flag="--yes",
        variable="PIPELINE_YES",
        key="",
        kind="switch",
        default="no",
        help="Agree to change what runs in production",
        commands=_CHANGE,
    ),
    Setting(
        name="timeout",
        flag="--timeout",
        variable="PIPELINE_TIMEOUT",
        key="timeout",
        kind="number",
        default=f"{DEFAULT_TIMEOUT}",
        help="Seconds that a deployment may take to be ready, and again (60 at least) to be taken "
        "back",
        metavar="SECONDS",
        commands=_CHANGE,
    ),
    Setting(
        name="provider",
        flag="--provider",
        variable="PIPELINE_PROVIDER",
        key="provider",
        kind="choice",
        default="minikube",
        help="What makes the cluster: minikube, or local (a single node, on Linux as root)",
        metavar="PROVIDER",
        choices=PROVIDERS,
        commands=_CLUSTER,
    ),
    Setting(
        name="keda",
        flag="--keda",
        variable="PIPELINE_KEDA",
        key="keda",
        kind="text",
        default="its release manifest",
        help="Where KEDA comes from: a URL or a file of its release manifest, or helm",
        metavar="URL|FILE|helm",
        commands=frozenset({"cluster prepare"}),
    ),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that a run was asked for, checked.

    Attributes:
        root: The project: the folder of its pyproject.toml.
        steps: The steps that were named, in the order of the pipeline; all when none was.
        images: The images to work on, in the order of the pipeline.
        registry: ``HOST[:PORT][/NAMESPACE]``.
        tags: Tags to push under; empty means the one from git.
        engine: Which engine was ordered.
        bases: Where base images are to come from.
        fresh: Steps that run even when nothing changed.
        report_dir: Absolute; exists and can be written when the run begins.
        platform: ``os/arch[/variant]``; empty means this machine's.
        jobs: How many steps may run at once, at least 1.
        quiet: Print the final result and errors only.
        json: Print the report on standard output and nothing else there.
        docker_host: The address of the Docker Engine, as DOCKER_HOST has it.
        ca: A CA bundle for downloads within builds; None when the machine has none.
        registry_user: Empty means Docker's credential store.
        registry_password: Never printed; empty exactly when ``registry_user`` is.
        log_level: One of `LOG_LEVELS`.
        context: A context of the kubeconfig; empty means its current one.
        overlay: A name under ``k8s/overlays``, or an absolute path.
        namespace: Where to deploy to, a DNS label.
        image_files: Reports to take the images from; empty means the one in ``report_dir``.
        deploy_tag: A tag to take the images from; empty means a report.
        pull_from: ``HOST[:PORT]`` of the registry as nodes see it; empty means as we do.
        archive: A file to restore a release from.
        yes: Production may be changed.
        timeout: Seconds that a deployment may take to be ready.
        provider: What makes the cluster.
        keda: A URL or a path of KEDA's release manifest, or ``helm``.
        given: The names of the settings that somebody gave, wherever: a default counts less than
            the same value when it was asked for.
    """

    root: Path
    steps: tuple[str, ...] = STEPS
    images: tuple[str, ...] = IMAGES
    registry: str = DEFAULT_REGISTRY
    tags: tuple[str, ...] = ()
    engine: Literal["auto", "dagger", "embedded"] = "auto"
    bases: Literal["auto", "registry", "debian"] = "auto"
    fresh: frozenset[str] = frozenset()
    report_dir: Path = Path("reports")
    platform: str = ""
    jobs: int = 4
    quiet: bool = False
    json: bool = False
    docker_host: str = DEFAULT_DOCKER_HOST
    ca: Path | None = None
    registry_user: str = ""
    registry_password: str = field(default="", repr=False)
    log_level: str = "warning"
    context: str = ""
    overlay: str = DEFAULT_OVERLAY
    namespace: str = DEFAULT_NAMESPACE
    image_files: tuple[Path, ...] = ()
    deploy_tag: str = ""
    pull_from: str = ""
    archive: Path | None = None
    yes: bool = False
    timeout: float = float(DEFAULT_TIMEOUT)
    provider: Literal["minikube", "local"] = "minikube"
    keda: str = DEFAULT_KEDA
    given: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Outline:
    """What must be known to report that the settings are wrong.

    Attributes:
        report_dir: Where the reports go; None outside a project, where a folder of ours would be
            litter.
        quiet: As in `Settings`.
        json: As in `Settings`.
    """

    report_dir: Path | None
    quiet: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True)
class _Given:
    """A value and the place that it came from, as an error names it."""

    value: object
    source: str
    base: Path


def find_root(start: Path) -> Path | None:
    """Return the nearest folder at or above ``start`` that holds this project, or None.

    A service has a pyproject.toml of its own, so the file alone does not tell.

    Raises:
        UsageError: A pyproject.toml on the way is no TOML.
    """
    for folder in (start, *start.parents):
        table = _read_toml(folder / "pyproject.toml")
        named = _table(table, "project").get("name") == "slipway"
        if named or "pipeline" in _table(table, "tool"):
            return folder
    return None


def load(flags: Mapping[str, object], environ: Mapping[str, str], *, cwd: Path) -> Settings:
    """Return the settings of this run.

    Args:
        flags: What the command line gave, by the name of the field; None and an empty tuple mean
            that it did not.
        environ: The environment.
        cwd: What relative paths on the command line and in the environment are relative to; the
            project is looked for from here upwards.

    Raises:
        UsageError: Something that was given is wrong; its source is named.
    """
    root = find_root(cwd)
    if root is None:
        raise UsageError(
            f"No project found in {cwd} or above it",
            remedy="Run it inside a checkout, where pyproject.toml has [tool.pipeline]",
        )
    table = _configured(root / "pyproject.toml")
    _refuse_unknown(environ, table)
    given = _Sources(flags, environ, table, cwd=cwd, root=root)
    user, password = _credential(given, environ)
    return Settings(
        root=root,
        steps=_chosen(given, "steps", STEPS),
        images=_chosen(given, "images", IMAGES),
        registry=_registry(given),
        tags=_tags(given),
        engine=cast('Literal["auto", "dagger", "embedded"]', given.choice("engine") or "auto"),
        bases=cast('Literal["auto", "registry", "debian"]', given.choice("bases") or "auto"),
        fresh=_fresh(given),
        report_dir=given.path("report_dir") or root / "reports",
        platform=_platform(given),
        jobs=_jobs(given),
        quiet=given.switch("quiet"),
        json=given.switch("json"),
        docker_host=_docker_host(given, environ),
        ca=_ca(given, environ),
        registry_user=user,
        registry_password=password,
        log_level=given.choice("log_level") or "warning",
        context=_plain(given, "context", ""),
        overlay=_overlay(given),
        namespace=_namespace(given),
        image_files=given.paths("image_files"),
        deploy_tag=_deploy_tag(given),
        pull_from=_pull_from(given),
        archive=given.path("archive"),
        yes=given.switch("yes"),
        timeout=float(_whole(given, "timeout", "a number of seconds") or DEFAULT_TIMEOUT),
        provider=cast('Literal["minikube", "local"]', given.choice("provider") or "minikube"),
        keda=_keda(given),
        given=frozenset(each.name for each in SETTINGS if given.find(each.name)),
    )


def outline(flags: Mapping[str, object], environ: Mapping[str, str], *, cwd: Path) -> Outline:
    """Return as much of the settings as a report needs, whatever is wrong with them.

    Each part that cannot be read has its default, so this never fails.
    """
    root: Path | None = None
    table: Mapping[str, object] = {}
    try:
        root = find_root(cwd)
        table = _configured(root / "pyproject.toml") if root else {}
    except UsageError:
        _log.debug("pyproject.toml cannot be read, so what it says of the report is not known")
    given = _Sources(flags, environ, table, cwd=cwd, root=root or cwd)

    def lenient(name: str) -> bool:
        try:
            return given.switch(name)
        except UsageError:
            return False

    try:
        folder = given.path("report_dir")
    except UsageError:
        folder = None
    if folder is None and root is not None:
        folder = root / "reports"
    return Outline(report_dir=folder, quiet=lenient("quiet"), json=lenient("json"))


def prepare_report_dir(folder: Path) -> None:
    """Create the report folder and try that it can be written.

    Raises:
        UsageError: It cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> UsageError:
    """Return the error for a report folder that cannot be written."""
    return UsageError(
        f"The report folder {folder} cannot be written: {error.strerror or error}",
        remedy="Make room or get the permission there, or name another one with --report-dir",
    )


def unknown(
    kind: str, name: str, choices: Iterable[str], *, source: str = "", remedy: str = ""
) -> UsageError:
    """Return the error for a name that nothing has, with the one that was probably meant.

    Args:
        kind: What it is the name of.
        name: The name.
        choices: The names that there are.
        source: Where it was given.
        remedy: What to say in the place of the list of choices.
    """
    known = tuple(choices)
    close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    where = f" ({source})" if source else ""
    return UsageError(
        f"Unknown {kind} {name!r}{where}",
        remedy=hint + (remedy or f"Choose from {', '.join(known)}"),
    )


class _Sources:
    """Reads a setting from the first of the three places that has it."""

    def __init__(
        self,
        flags: Mapping[str, object],
        environ: Mapping[str, str],
        table: Mapping[str, object],
        *,
        cwd: Path,
        root: Path,
    ) -> None:
        self._flags = flags
        self._environ = environ
        self._table = table
        self._cwd = cwd
        self._root = root

    def find(self, name: str) -> _Given | None:
        setting = _BY_NAME[name]
        flag = self._flags.get(name)
        if flag is not None and flag != ():
            return _Given(flag, setting.flag, self._cwd)
        # CI systems export parameters that were left empty: that is not a value.
        variable = self._environ.get(setting.variable, "").strip()
        if variable:
            return _Given(variable, setting.variable, self._cwd)
        if setting.key and setting.key in self._table:
            source = f"{setting.key} in [tool.pipeline]"
            return _Given(self._table[setting.key], source, self._root)
        return None

    def text(self, name: str) -> _Given | None:
        given = self.find(name)
        if given is None:
            return None
        if not isinstance(given.value, str):
            raise _wrong(given, "a text", 'Write it in quotes, as in registry = "127.0.0.1:5050"')
        return _Given(given.value.strip(), given.source, given.base)

    def path(self, name: str) -> Path | None:
        given = self.text(name)
        if given is None or not given.value:
            return None
        return (given.base / Path(str(given.value)).expanduser()).absolute()

    def paths(self, name: str) -> tuple[Path, ...]:
        """Return the paths of a list; in a variable, a comma separates them."""
        given = self.find(name)
        if given is None:
            return ()
        value = given.value
        parts = value.split(",") if isinstance(value, str) else cast("tuple[str, ...]", value)
        named = dict.fromkeys(part.strip() for part in parts if part.strip())
        return tuple((given.base / Path(part).expanduser()).absolute() for part in named)

    def choice(self, name: str) -> str | None:
        given = self.text(name)
        if given is None:
            return None
        value = str(given.value)
        if value not in _BY_NAME[name].choices:
            raise unknown(_NOUNS[name], value, _BY_NAME[name].choices, source=given.source)
        return value

    def words(self, name: str) -> tuple[tuple[str, ...], str]:
        """Return the words of a list and its source; comma and space separate them."""
        given = self.find(name)
        if given is None:
            return (), ""
        value = given.value
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
            example = (_BY_NAME[name].choices or ("stable",))[0]
            raise _wrong(
                given, "a list of texts", f'Write it as in {_BY_NAME[name].key} = ["{example}"]'
            )
        words = [word for part in parts for word in part.replace(",", " ").split()]
        return tuple(dict.fromkeys(words)), given.source

    def chosen(self, name: str) -> tuple[str, ...]:
        words, source = self.words(name)
        for word in words:
            if word not in _BY_NAME[name].choices:
                raise unknown(_NOUNS[name], word, _BY_NAME[name].choices, source=source)
        return words

    def switch(self, name: str) -> bool:
        given = self.find(name)
        if given is None:
            return False
        value = given.value
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            return value.lower() in _TRUE
        raise _wrong(given, "yes or no", "Write true or false")


_BY_NAME = {setting.name: setting for setting in SETTINGS}
_NOUNS = {
    "steps": "step",
    "images": "image",
    "engine": "engine",
    "bases": "kind of base images",
    "fresh": "step",
    "log_level": "log level",
    "provider": "provider",
}


def _wrong(given: _Given, wanted: str, remedy: str) -> UsageError:
    return UsageError(f"{given.value!r} is not {wanted} ({given.source})", remedy=remedy)


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file, empty when there is no such file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}", remedy="Correct the file") from error


def _table(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _configured(path: Path) -> Mapping[str, object]:
    """Return ``[tool.pipeline]``, empty when there is none."""
    tool = _table(_read_toml(path), "tool")
    table = tool.get("pipeline", {})
    if not isinstance(table, dict):
        raise UsageError(f"tool.pipeline in {path} is not a table", remedy="Write [tool.pipeline]")
    return table


def _refuse_unknown(environ: Mapping[str, str], table: Mapping[str, object]) -> None:
    keys = [setting.key for setting in SETTINGS if setting.key]
    for key in table:
        if key == "registry-password":
            raise UsageError(
                "registry-password is in [tool.pipeline], a file that is committed",
                remedy="Take it out there and set PIPELINE_REGISTRY_PASSWORD",
            )
        if key not in keys:
            raise unknown("key", key, keys, source="[tool.pipeline] in pyproject.toml")
    variables = [setting.variable for setting in SETTINGS]
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable not in {*variables, *FOREIGN}:
            # difflib weighs the prefix, which all of them share: compare what follows it.
            close = difflib.get_close_matches(
                variable.removeprefix(PREFIX), [name.removeprefix(PREFIX) for name in variables], 1
            )
            hint = f"Did you mean {PREFIX}{close[0]}? " if close else ""
            raise UsageError(
                f"Nothing reads the environment variable {variable}",
                remedy=f"{hint}Unset it, or see --help for those that there are",
            )


def _chosen(given: _Sources, name: str, every: tuple[str, ...]) -> tuple[str, ...]:
    named = given.chosen(name)
    return tuple(value for value in every if value in named) or every


def _fresh(given: _Sources) -> frozenset[str]:
    named = given.chosen("fresh")
    return frozenset(STEPS if "all" in named else named)


def _registry(given: _Sources) -> str:
    found = given.text("registry")
    if found is None:
        return DEFAULT_REGISTRY
    _checked(found, references.parse_registry)
    return str(found.value)


def _tags(given: _Sources) -> tuple[str, ...]:
    words, source = given.words("tags")
    for word in words:
        _checked(_Given(word, source, Path()), references.validate_tag)
    return words


def _checked(given: _Given, check: Callable[[str], object]) -> None:
    """Apply a check that does not know where the value came from, and say so in its error."""
    try:
        check(str(given.value))
    except UsageError as error:
        raise UsageError(
            f"{error.message} ({given.source})", remedy=error.remedy, evidence=error.evidence
        ) from error


def _platform(given: _Sources) -> str:
    found = given.text("platform")
    if found is None:
        return ""
    if not _PLATFORM.fullmatch(str(found.value)):
        raise _wrong(found, "a platform", "Write OS/ARCH, as in linux/amd64")
    return str(found.value)


def _jobs(given: _Sources) -> int:
    return _whole(given, "jobs", "a number of jobs") or 2 * (os.cpu_count() or 1)


def _whole(given: _Sources, name: str, wanted: str) -> int | None:
    found = given.find(name)
    if found is None:
        return None
    text = str(found.value)
    if isinstance(found.value, bool) or not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise _wrong(found, wanted, "Give a whole number, 1 or more")
    return int(text)


def _plain(given: _Sources, name: str, default: str) -> str:
    found = given.text(name)
    return str(found.value) if found and found.value else default


def _overlay(given: _Sources) -> str:
    """Return the name of an overlay, or an absolute path: what has a separator in it is one."""
    text = _plain(given, "overlay", DEFAULT_OVERLAY)
    if text in {".", ".."} or os.sep in text:
        return str(given.path("overlay"))
    return text


def _namespace(given: _Sources) -> str:
    found = given.text("namespace")
    if found is None:
        return DEFAULT_NAMESPACE
    if not _NAMESPACE.fullmatch(str(found.value)):
        raise _wrong(
            found,
            "the name of a namespace",
            "It has at most 63 lower-case letters, digits, and '-' between them",
        )
    if found.value == "default" or str(found.value).startswith("kube-"):
        # Quota, Pod Security and a policy that denies everything would be put on others' pods.
        raise _wrong(found, "a namespace of its own", "Name one that has nothing else in it")
    return str(found.value)


def _deploy_tag(given: _Sources) -> str:
    found = given.text("deploy_tag")
    if found is None:
        return ""
    _checked(found, references.validate_tag)
    return str(found.value)


def _pull_from(given: _Sources) -> str:
    found = given.text("pull_from")
    if found is None:
        return ""
    _checked(found, references.parse_registry)
    if "/" in str(found.value):
        raise _wrong(found, "HOST[:PORT]", "Leave the path out: repositories keep their names")
    return str(found.value)


def _keda(given: _Sources) -> str:
    text = _plain(given, "keda", DEFAULT_KEDA)
    return text if text == "helm" or "://" in text else str(given.path("keda"))


def _docker_host(given: _Sources, environ: Mapping[str, str]) -> str:
    found = given.text("docker_host")
    if found is None:
        inherited = environ.get("DOCKER_HOST", "").strip()
        if not inherited:
            return DEFAULT_DOCKER_HOST
        found = _Given(inherited, "DOCKER_HOST", Path())
    scheme, separator, rest = str(found.value).partition("://")
    if not separator or not rest or scheme not in {"unix", "tcp", "http", "https", "ssh"}:
        raise _wrong(
            found, "the address of a Docker Engine", f"Write it as in {DEFAULT_DOCKER_HOST}"
        )
    return str(found.value)


def _ca(given: _Sources, environ: Mapping[str, str]) -> Path | None:
    path = given.path("ca")
    found = given.find("ca")
    source = found.source if found else "SSL_CERT_FILE"
    if path is None:
        inherited = environ.get("SSL_CERT_FILE", "").strip()
        if not inherited:
            return _SYSTEM_CA if _SYSTEM_CA.is_file() else None
        path = Path(inherited).absolute()
    if not path.is_file():
        raise UsageError(
            f"There is no CA bundle {path} ({source})",
            remedy="Name a file with certificates in PEM form, or leave it out",
        )
    return path


def _credential(given: _Sources, environ: Mapping[str, str]) -> tuple[str, str]:
    user = given.text("registry_user")
    password = environ.get(_BY_NAME["registry_password"].variable, "")
    if user and not password:
        raise UsageError(
            f"The registry's user {user.value} has no password ({user.source})",
            remedy="Set PIPELINE_REGISTRY_PASSWORD, or leave the user out to use the credentials "
            "of docker login",
        )
    if password and not user:
        raise UsageError(
            "PIPELINE_REGISTRY_PASSWORD is set without a user",
            remedy="Set PIPELINE_REGISTRY_USER as well, or unset it to use the credentials of "
            "docker login",
        )
    return (str(user.value), password) if user and password else ("", "")
