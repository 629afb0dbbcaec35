"""Debian's packages: which, from where, and by which commands; nothing is installed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from pipeline.errors import PrerequisiteError
from pipeline.setup import apt
from pipeline.setup.apt import Apt, Source
from pipeline.setup.command import Output

from .setup_fakes import Recorder

if TYPE_CHECKING:
    from pathlib import Path

STANZAS = """\
# Debian's own file
Types: deb deb-src
URIs: https://mirror.example.com/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/mirror.gpg

Types: deb
URIs: http://security.example.com/debian-security
Suites: bookworm-security

Types: deb
Enabled: no
URIs: http://off.example.com/debian
Suites: bookworm

Types: deb-src
URIs: http://source.example.com/debian
Suites: bookworm

Types: deb
URIs: http://inline.example.com/debian
Suites: sid
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 -----END PGP PUBLIC KEY BLOCK-----
"""

LINES = """\
# deb http://commented.example.com/debian bookworm main
deb http://deb.example.com/debian bookworm main contrib  # the mirror
deb-src http://deb.example.com/debian bookworm main
deb [arch=amd64 signed-by=/key.gpg] https://download.example.com/linux bookworm stable
"""


def policy(candidate: str) -> Output:
    """Return what apt-cache says of a package."""
    return Output(0, f"name:\n  Installed: (none)\n  Candidate: {candidate}\n", "")


def test_stanzas_are_read() -> None:
    """Sources of packages that are enabled, with a keyring when it is a file."""
    assert apt.parse_stanzas(STANZAS) == (
        Source(
            "https://mirror.example.com/debian",
            ("bookworm", "bookworm-updates"),
            "/usr/share/keyrings/mirror.gpg",
        ),
        Source("http://security.example.com/debian-security", ("bookworm-security",)),
        Source("http://inline.example.com/debian", ("sid",)),
    )


def test_lines_are_read() -> None:
    """The older form, with its options in brackets."""
    assert apt.parse_lines(LINES) == (
        Source("http://deb.example.com/debian", ("bookworm",)),
        Source("https://download.example.com/linux", ("bookworm",), "/key.gpg"),
    )


def test_sources_are_those_of_the_folder(tmp_path: Path) -> None:
    """Both forms, in apt's order; a file with another ending is none."""
    (tmp_path / "sources.list").write_text("deb http://first.example.com/debian trixie main\n")
    folder = tmp_path / "sources.list.d"
    folder.mkdir()
    (folder / "a.list").write_text("deb http://second.example.com/debian trixie main\n")
    (folder / "b.sources").write_text(STANZAS)
    (folder / "c.list.disabled").write_text("deb http://never.example.com/debian trixie main\n")
    found = [source.uri for source in apt.sources(tmp_path)]
    assert found[:2] == ["http://first.example.com/debian", "http://second.example.com/debian"]
    assert "https://mirror.example.com/debian" in found
    assert not any("never" in uri for uri in found)
    assert apt.sources(tmp_path / "none") == ()


def test_the_mirror_is_this_machines_own() -> None:
    """A company's mirror is used with its keyring, and the one for security is passed over."""
    security = Source("http://security.example.com", ("bookworm-security",))
    own = Source("http://mirror.example.com", ("bookworm",), "/key.gpg")
    assert apt.mirror([security, own]) == Source(
        "http://mirror.example.com", ("trixie",), "/key.gpg"
    )


def test_without_one_the_mirror_is_debians() -> None:
    """Ubuntu's mirror has no Debian, and a disc is no mirror."""
    ubuntu = Source("http://archive.example.com/ubuntu", ("noble",))
    disc = Source("cdrom:[Debian]/", ("bookworm",))
    assert apt.mirror([ubuntu, disc]).uri == "http://deb.debian.org/debian"


def test_the_suite_is_written_as_apt_reads_it() -> None:
    """What is written is what is read back; without a keyring apt uses those it trusts."""
    source = Source("http://mirror.example.com/debian", ("trixie",), "/key.gpg")
    assert apt.parse_stanzas(apt.stanza(source)) == (source,)
    assert "Signed-By" not in apt.stanza(Source("http://m.example.com", ("trixie",)))


def test_debian_12_gets_the_suite_pinned_and_asks_for_each_package_by_it(tmp_path: Path) -> None:
    """Docker comes from trixie, by name; the other packages and their parts from this release."""
    (tmp_path / "sources.list").write_text("deb http://mirror.example.com/debian bookworm main\n")
    recorder = Recorder({"apt-cache policy docker-buildx": policy("(none)")})
    recorder.outputs["apt-cache policy"] = policy("1.0")

    def add(line: str) -> None:
        if line.endswith("update") and len(recorder.calls) > 1:
            recorder.outputs["apt-cache policy docker-buildx"] = policy("0.13")

    recorder.on_call = add
    said: list[str] = []
    anyio.run(Apt(recorder, said.append, tmp_path).install, (*apt.ENGINE, "mmdebstrap"))
    assert recorder.calls[-1] == (
        "apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 --yes --no-install-recommends "
        "install docker.io/trixie docker-cli/trixie docker-buildx/trixie mmdebstrap"
    )
    assert sum(call.endswith("update") for call in recorder.calls) == 2
    written = (tmp_path / "sources.list.d" / "slipway-trixie.sources").read_text()
    assert apt.parse_stanzas(written)[0].uri == "http://mirror.example.com/debian"
    pinned = (tmp_path / "preferences.d" / "slipway-trixie").read_text()
    assert pinned == "Package: *\nPin: release n=trixie\nPin-Priority: 50\n"
    assert said[0].startswith("Installing docker.io docker-cli docker-buildx mmdebstrap")
    assert recorder.environments[-1] is not None
    assert recorder.environments[-1]["DEBIAN_FRONTEND"] == "noninteractive"


def test_a_release_that_has_buildx_needs_no_other(tmp_path: Path) -> None:
    """Debian 13 and Ubuntu install their own; a client that docker.io contains is left out."""
    recorder = Recorder({"apt-cache policy docker-cli": policy("(none)")})
    recorder.outputs["apt-cache policy"] = policy("1.0")
    anyio.run(Apt(recorder, print, tmp_path, "ubuntu").install, apt.ENGINE)
    assert recorder.calls[-1].endswith("install docker.io docker-buildx")
    assert list(tmp_path.iterdir()) == []


def test_an_ubuntu_without_buildx_is_not_given_debians(tmp_path: Path) -> None:
    """Packages of another distribution are never mixed in; nothing is changed."""
    recorder = Recorder({"apt-cache policy": policy("(none)")})
    with pytest.raises(PrerequisiteError, match="This ubuntu has no package") as raised:
        anyio.run(Apt(recorder, print, tmp_path, "ubuntu").install, apt.ENGINE)
    assert "docs.docker.com" in raised.value.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_failed_installation_shows_what_apt_said(tmp_path: Path) -> None:
    """The end of apt's output is the evidence."""
    recorder = Recorder({"apt-cache policy": policy("1.0")})
    failure = Output(100, "", "E: Unable to fetch some archives\n")
    recorder.outputs["apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg"] = failure
    with pytest.raises(PrerequisiteError, match="mmdebstrap cannot be installed") as raised:
        anyio.run(Apt(recorder, print, tmp_path).install, ["mmdebstrap"])
    assert raised.value.evidence == "E: Unable to fetch some archives"


def test_another_apt_is_waited_for(tmp_path: Path) -> None:
    """A machine that upgrades itself holds the lock of the lists for a while."""
    recorder = Recorder({"apt-cache policy": policy("1.0")})
    busy = Output(100, "", "E: Could not get lock /var/lib/apt/lists/lock.\n")
    recorder.outputs["apt-get -qq -o DPkg::Lock::Timeout=120 update"] = busy

    def free(_line: str) -> None:
        if len(recorder.calls) == 3:
            recorder.outputs.pop("apt-get -qq -o DPkg::Lock::Timeout=120 update")

    recorder.on_call = free
    anyio.run(Apt(recorder, print, tmp_path, pause=0).install, ["mmdebstrap"])
    assert sum(call.endswith("update") for call in recorder.calls) == 3
    assert recorder.calls[-1].endswith("install mmdebstrap")


def test_lists_that_cannot_be_updated_are_an_error(tmp_path: Path) -> None:
    """A mirror that is down is said with what apt said."""
    recorder = Recorder({"apt-get": Output(100, "", "E: Could not resolve mirror")})
    with pytest.raises(PrerequisiteError, match="lists of packages cannot be updated") as raised:
        anyio.run(Apt(recorder, print, tmp_path).install, ["mmdebstrap"])
    assert raised.value.evidence == "E: Could not resolve mirror"


def test_the_distribution_is_that_of_os_release(tmp_path: Path) -> None:
    """Quoted or not; `linux` where the file says nothing, as os-release(5) has it."""
    file = tmp_path / "os-release"
    assert apt.distribution(file) == "linux"
    file.write_text('NAME="Debian GNU/Linux"\nID=debian\n')
    assert apt.distribution(file) == "debian"
    file.write_text('ID="fedora"\n')
    assert apt.distribution(file) == "fedora"
    file.write_text("NAME=x\n")
    assert apt.distribution(file) == "linux"


def test_an_etcd_that_is_too_old_is_taken_from_the_suite(tmp_path: Path) -> None:
    """Debian 12's is 3.4, which serves no Kubernetes of today; the rest is this release's own."""
    (tmp_path / "sources.list").write_text("deb http://mirror.example.com/debian bookworm main\n")
    recorder = Recorder({"apt-cache policy etcd-server": policy("3.4.23-4+b4")})
    recorder.outputs["apt-cache policy"] = policy("1.0")
    anyio.run(Apt(recorder, print, tmp_path).install, (apt.ETCD, "containernetworking-plugins"))
    assert recorder.calls[-1].endswith("install etcd-server/trixie containernetworking-plugins")


@pytest.mark.parametrize("version", ["3.5.16-4", "3.6.0-1", "1:4.0-1"])
def test_an_etcd_that_serves_is_this_releases_own(tmp_path: Path, version: str) -> None:
    """No other source is added."""
    recorder = Recorder({"apt-cache policy": policy(version)})
    anyio.run(Apt(recorder, print, tmp_path).install, (apt.ETCD,))
    assert recorder.calls[-1].endswith("install etcd-server")
    assert list(tmp_path.iterdir()) == []


def test_another_distribution_with_an_old_etcd_is_told_where_to_get_one(tmp_path: Path) -> None:
    """With the version that it has to be."""
    recorder = Recorder({"apt-cache policy": policy("3.4.30-1")})
    with pytest.raises(PrerequisiteError, match=r"no package etcd-server 3\.5 or later") as raised:
        anyio.run(Apt(recorder, print, tmp_path, "ubuntu").install, (apt.ETCD,))
    assert "etcd.io" in raised.value.remedy
