"""The settings: where they come from, in which order, and how a wrong one is told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from pipeline import config
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .fakes import Desk


def load(desk: Desk, **flags: object) -> config.Settings:
    """Return the settings of the desk's project with these flags."""
    return config.load(flags, desk.environ, cwd=desk.root)


def refusal(desk: Desk, **flags: object) -> str:
    """Return how the desk's settings are refused."""
    with pytest.raises(UsageError) as caught:
        load(desk, **flags)
    return str(caught.value)


def test_defaults_name_everything(desk: Desk) -> None:
    """Without a word from anybody all steps run for both images, at the loopback registry."""
    settings = load(desk)
    assert settings.steps == ("lint", "test", "build", "push", "verify")
    assert settings.images == ("api", "nginx")
    assert (settings.registry, settings.engine, settings.bases) == (
        "127.0.0.1:5050",
        "auto",
        "auto",
    )
    assert settings.report_dir == desk.root / "reports"
    assert settings.jobs == 2 * (os.cpu_count() or 1)
    assert (settings.fresh, settings.tags, settings.platform) == (frozenset(), (), "")
    assert settings.docker_host == "unix:///var/run/docker.sock"


def test_order_is_flag_variable_key(desk: Desk) -> None:
    """A flag counts before the variable, that before the key, and that before the default."""
    desk.configure('registry = "key.example"\nengine = "dagger"\njobs = 7')
    desk.environ |= {"PIPELINE_REGISTRY": "variable.example", "PIPELINE_ENGINE": "embedded"}
    settings = load(desk, registry="flag.example")
    assert (settings.registry, settings.engine, settings.jobs) == ("flag.example", "embedded", 7)


def test_list_replaces_and_does_not_add(desk: Desk) -> None:
    """A list from a source that counts more takes the place of the other, it is not added to it."""
    desk.configure('tag = ["one", "two"]\nfresh = ["lint"]')
    desk.environ["PIPELINE_TAG"] = "three, four"
    settings = load(desk, tags=())
    assert settings.tags == ("three", "four")
    assert settings.fresh == {"lint"}


def test_lists_take_commas_and_repetition(desk: Desk) -> None:
    """A list may be given with commas, with repetition, or both."""
    assert load(desk, fresh=("lint,test", "build")).fresh == {"lint", "test", "build"}


def test_steps_and_images_come_in_the_order_of_the_pipeline(desk: Desk) -> None:
    """The order in which steps and images are named says nothing."""
    settings = load(desk, steps=("push", "lint"), images=("nginx", "api"))
    assert settings.steps == ("lint", "push")
    assert settings.images == ("api", "nginx")


def test_fresh_all_is_every_step(desk: Desk) -> None:
    """``--fresh all`` stands for all steps."""
    assert load(desk, fresh=("all",)).fresh == set(config.STEPS)


def test_empty_variable_is_none(desk: Desk) -> None:
    """A variable that is empty was not given: CI systems export parameters that way."""
    desk.environ |= {"PIPELINE_ENGINE": "", "PIPELINE_TAG": " ", "PIPELINE_QUIET": ""}
    settings = load(desk)
    assert (settings.engine, settings.tags, settings.quiet) == ("auto", (), False)


def test_switch_can_be_turned_off_by_a_flag(desk: Desk) -> None:
    """A switch that the environment turns on can be turned off on the command line."""
    desk.environ["PIPELINE_QUIET"] = "yes"
    assert load(desk).quiet
    assert not load(desk, quiet=False).quiet


def test_relative_paths_are_relative_to_where_they_are_written(desk: Desk) -> None:
    """A path in pyproject.toml is relative to it, one from elsewhere to the working directory."""
    inner = desk.root / "service"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "other"\n', encoding="utf-8")
    desk.configure('report-dir = "out"')
    assert config.load({}, {}, cwd=inner).report_dir == desk.root / "out"
    assert config.load({"report_dir": "here"}, {}, cwd=inner).report_dir == inner / "here"


def test_project_is_found_from_within(desk: Desk) -> None:
    """A service's own pyproject.toml is not taken for the project's."""
    inner = desk.root / "service"
    inner.mkdir()
    (inner / "pyproject.toml").write_text('[project]\nname = "other"\n', encoding="utf-8")
    assert config.load({}, {}, cwd=inner).root == desk.root


def test_no_project_is_refused(tmp_path: Path) -> None:
    """Outside a checkout there is nothing to run."""
    with pytest.raises(UsageError, match="No project found in"):
        config.load({}, {}, cwd=tmp_path)


WRONG: list[tuple[str, str, str]] = [
    # setting, what is given, what the error must say
    ("engine", "dager", "Unknown engine 'dager' ({source}). Did you mean 'dagger'?"),
    ("bases", "alpine", "Unknown kind of base images 'alpine' ({source})"),
    ("steps", "lnit", "Unknown step 'lnit' ({source}). Did you mean 'lint'?"),
    ("images", "nginix", "Unknown image 'nginix' ({source}). Did you mean 'nginx'?"),
    ("fresh", "tset", "Unknown step 'tset' ({source}). Did you mean 'test'?"),
    ("registry", "Not A Registry", "({source})"),
    ("registry", "host:99999", "({source})"),
    ("tags", "no/tag", "({source})"),
    ("tags", "x" * 129, "({source})"),
    ("jobs", "0", "'0' is not a number of jobs ({source})"),
    ("jobs", "many", "'many' is not a number of jobs ({source})"),
    ("platform", "amd64", "'amd64' is not a platform ({source})"),
    ("docker_host", "/var/run/docker.sock", "is not the address of a Docker Engine ({source})"),
    ("ca", "/nowhere/ca.pem", "There is no CA bundle /nowhere/ca.pem ({source})"),
    ("log_level", "loud", "Unknown log level 'loud' ({source})"),
    ("registry_user", "me", "The registry's user me has no password ({source})"),
    ("namespace", "Slipway", "'Slipway' is not the name of a namespace"),
    ("namespace", "default", "'default' is not a namespace of its own"),
    ("namespace", "kube-system", "'kube-system' is not a namespace of its own"),
]


@pytest.mark.parametrize("place", ["flag", "variable", "key"])
@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_wrong_value_names_its_source(
    desk: Desk, place: str, name: str, value: str, told: str
) -> None:
    """A wrong value is refused with the place that it came from, whichever of the three that is."""
    setting = next(each for each in config.SETTINGS if each.name == name)
    flags: Mapping[str, object] = {}
    if place == "flag":
        many = setting.kind in ("list", "choices")
        flags, source = {name: (value,) if many else value}, setting.flag
    elif place == "variable":
        desk.environ[setting.variable] = value
        source = setting.variable
    else:
        desk.configure(f'{setting.key} = "{value}"')
        source = f"{setting.key} in [tool.pipeline]"
    assert told.format(source=source) in refusal(desk, **flags)


@pytest.mark.parametrize("name", ["quiet", "json"])
def test_wrong_switch_names_its_source(desk: Desk, name: str) -> None:
    """A switch is yes or no, nothing else."""
    desk.environ[f"PIPELINE_{name.upper()}"] = "maybe"
    assert f"'maybe' is not yes or no (PIPELINE_{name.upper()})" in refusal(desk)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("registry = 5050", "5050 is not a text (registry in [tool.pipeline])"),
        ("tag = [1]", "[1] is not a list of texts (tag in [tool.pipeline])"),
        ("jobs = true", "True is not a number of jobs (jobs in [tool.pipeline])"),
        ("quiet = 3", "3 is not yes or no (quiet in [tool.pipeline])"),
    ],
)
def test_wrong_type_in_pyproject_is_refused(desk: Desk, text: str, told: str) -> None:
    """A key of the wrong type is refused with how it is written."""
    desk.configure(text)
    assert told in refusal(desk)


def test_unknown_key_is_refused(desk: Desk) -> None:
    """A key that nothing reads is an error, and the one that was meant is named."""
    desk.configure('report_dir = "x"')
    assert (
        "Unknown key 'report_dir' ([tool.pipeline] in pyproject.toml). Did you mean 'report-dir'?"
    ) in refusal(desk)


def test_unknown_variable_is_refused(desk: Desk) -> None:
    """A variable of ours that nothing reads is an error, and the one that was meant is named."""
    desk.environ["PIPELINE_REGISTERY"] = "x"
    assert refusal(desk).startswith(
        "Nothing reads the environment variable PIPELINE_REGISTERY. Did you mean PIPELINE_REGISTRY?"
    )


def test_variable_of_another_program_is_left_alone(desk: Desk) -> None:
    """Azure Pipelines sets a variable with our prefix in every job."""
    desk.environ["PIPELINE_WORKSPACE"] = "/agent/1"
    assert load(desk).root == desk.root


def test_broken_pyproject_is_told(desk: Desk) -> None:
    """A pyproject.toml that is no TOML is named, with the place of the mistake."""
    (desk.root / "pyproject.toml").write_text("[tool.pipeline\n", encoding="utf-8")
    assert "pyproject.toml cannot be read: " in refusal(desk)
    assert "line 1" in refusal(desk)


def test_credential_comes_as_a_pair(desk: Desk) -> None:
    """A password without a user is refused; both together are taken, the password as it is."""
    desk.environ["PIPELINE_REGISTRY_PASSWORD"] = " hunter2 "
    assert "PIPELINE_REGISTRY_PASSWORD is set without a user" in refusal(desk)
    desk.environ["PIPELINE_REGISTRY_USER"] = "me"
    settings = load(desk)
    assert (settings.registry_user, settings.registry_password) == ("me", " hunter2 ")


def test_password_is_in_no_file_and_no_repr(desk: Desk) -> None:
    """The password is refused in pyproject.toml, and the settings do not print it."""
    desk.configure('registry-password = "hunter2"')
    told = refusal(desk)
    assert "PIPELINE_REGISTRY_PASSWORD" in told
    assert "hunter2" not in told
    desk.configure("")
    desk.environ |= {"PIPELINE_REGISTRY_USER": "me", "PIPELINE_REGISTRY_PASSWORD": "hunter2"}
    assert "hunter2" not in repr(load(desk))


def test_docker_host_is_inherited(desk: Desk) -> None:
    """DOCKER_HOST holds unless a setting of ours says otherwise, and is checked like one."""
    desk.environ["DOCKER_HOST"] = "tcp://10.0.0.1:2375"
    assert load(desk).docker_host == "tcp://10.0.0.1:2375"
    desk.environ["PIPELINE_DOCKER_HOST"] = "unix:///run/other.sock"
    assert load(desk).docker_host == "unix:///run/other.sock"
    desk.environ = {"DOCKER_HOST": "nonsense"}
    assert "(DOCKER_HOST)" in refusal(desk)


def test_ca_is_inherited(desk: Desk) -> None:
    """SSL_CERT_FILE holds unless a setting of ours says otherwise, and must exist."""
    bundle = desk.root / "ca.pem"
    bundle.write_text("", encoding="utf-8")
    desk.environ["SSL_CERT_FILE"] = str(bundle)
    assert load(desk).ca == bundle
    bundle.unlink()
    assert "(SSL_CERT_FILE)" in refusal(desk)


def test_report_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """The report folder is made, and tried, before anything runs."""
    config.prepare_report_dir(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UsageError, match=r"The report folder .*file/x cannot be written: Not a"):
        config.prepare_report_dir(tmp_path / "file" / "x")


def test_outline_survives_wrong_settings(desk: Desk) -> None:
    """Where the reports go is known even when everything else is wrong."""
    desk.configure('report-dir = "out"\nengine = "x"')
    desk.environ |= {"PIPELINE_JSON": "maybe", "PIPELINE_NONSENSE": "1"}
    outline = config.outline({}, desk.environ, cwd=desk.root)
    assert outline == config.Outline(desk.root / "out", quiet=False, json=False)


def test_outline_outside_a_project_has_no_folder(tmp_path: Path) -> None:
    """Outside a project no folder of ours is made, unless one is named."""
    assert config.outline({}, {}, cwd=tmp_path).report_dir is None
    named = config.outline({"report_dir": "r"}, {}, cwd=tmp_path)
    assert named.report_dir == tmp_path / "r"


def test_every_setting_is_a_field_a_variable_and_a_flag() -> None:
    """The table and the settings are the same, each name follows from the flag, none is twice."""
    fields = set(config.Settings.__dataclass_fields__) - {"root", "given"}
    assert {setting.name for setting in config.SETTINGS} == fields
    for setting in config.SETTINGS:
        if setting.flag.startswith("--"):
            name = setting.flag.removeprefix("--")
            # A tag to push under and the tag to deploy are two things with one flag.
            of = "deploy-" if setting.name == "deploy_tag" else ""
            assert setting.key in (name, "")
            assert setting.variable == f"PIPELINE_{f'{of}{name}'.replace('-', '_').upper()}"
    for names in zip(*((s.name, s.variable) for s in config.SETTINGS), strict=True):
        assert len(set(names)) == len(names)


def test_only_the_password_has_no_flag_and_no_key() -> None:
    """What is secret may not be in a list of processes or in a file that is committed.

    What makes sense for one deploy alone has no key either.
    """
    once = ["image_files", "deploy_tag", "archive", "yes"]
    assert [s.name for s in config.SETTINGS if not s.flag] == ["registry_password"]
    assert [s.name for s in config.SETTINGS if not s.key] == ["registry_password", *once]
