"""Whom downloads within builds trust: the CA bundle, and whether it is the right one.

Behind a proxy that opens HTTPS, what a build downloads is signed by a private CA. The build gets
the machine's bundle as a secret, for the commands that download.
"""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING

from pipeline.errors import PrerequisiteError, UsageError
from pipeline.setup import state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

HOST = "pypi.org"
"""What builds download from, over TLS: whose certificate tells whether it is intercepted."""
LIMIT = 2.0
"""Seconds for the question whether its certificate is trusted."""
TRUSTED_FOR = 24 * 3600.0
UNREACHABLE_FOR = 600.0
"""Seconds for which its answer holds."""

SECRET_LIMIT = 128_000
"""Bytes of a secret, as the Dagger API documents ``setSecret``."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
# The CAs of the networks that serve package registries, Debian's mirrors and image registries.
_SERVING = (
    "Internet Security Research Group",
    "GlobalSign",
    "DigiCert",
    "Google Trust Services",
    "Amazon",
    "USERTRUST",
    "Sectigo",
    "Certainly",
    "Starfield",
)
_REMEDY = "Name a file with certificates in PEM form with --ca, or leave it out"


def read(path: Path) -> str:
    """Return the certificates of a CA bundle.

    Raises:
        UsageError: It cannot be read, or has none in it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UsageError(f"The CA bundle {path} cannot be read: {why}", remedy=_REMEDY) from error
    certificates = _CERTIFICATE.findall(text)
    if not certificates:
        raise UsageError(f"The CA bundle {path} has no certificate in it", remedy=_REMEDY)
    return _joined(certificates)


def fitting(bundle: str, limit: int = SECRET_LIMIT, public: str | None = None) -> str:
    """Return a bundle cut down to what a secret may hold.

    A system's bundle is larger than that. The certificates that are not everybody's stay, since
    they are the reason to hand it over; then come those of the networks that serve packages, and
    of the rest as many as there is room for.

    Args:
        bundle: The certificates, as `read` returns them.
        limit: Bytes of the result at most.
        public: The certificates that are everybody's; those of Mozilla when None.
    """
    if len(bundle.encode()) <= limit:
        return bundle
    import ssl  # only a bundle that is too large is taken apart

    if public is None:
        import certifi

        public = certifi.contents()
    known = {_body(certificate) for certificate in _CERTIFICATE.findall(public)}
    serving = set()
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=bundle)
    for certificate, encoded in zip(
        trust.get_ca_certs(), trust.get_ca_certs(binary_form=True), strict=True
    ):
        if any(name in str(certificate.get("subject")) for name in _SERVING):
            serving.add(_body(ssl.DER_cert_to_PEM_cert(encoded)))

    def rank(certificate: str) -> tuple[int, int]:
        body = _body(certificate)
        return (0 if body not in known else 1 if body in serving else 2, len(certificate))

    kept: list[str] = []
    room = limit
    for certificate in sorted(_CERTIFICATE.findall(bundle), key=rank):
        room -= len(certificate) + 1
        if room < 0:
            break
        kept.append(certificate)
    return _joined(kept)


def check(
    ca: Path | None,
    place: Path | None = None,
    ask: Callable[[Path | None], str | None] | None = None,
) -> None:
    """Return when downloads within builds are trusted, or nobody can tell. Blocks.

    Args:
        ca: The bundle that builds get; None when they have only their own.
        place: Where the answer is remembered; the state folder when None.
        ask: Returns why the certificate of `HOST` is not trusted, empty when it is, None when
            nobody answers; over the network when None.

    Raises:
        PrerequisiteError: The connection is intercepted by someone whom no CA vouches for.
    """
    file = (place or state.folder()) / "trust.json"
    mark = _mark(ca)
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["mark"] == mark and 0 <= time.time() - known["at"] < known["for"]:
            return
    except (OSError, ValueError, KeyError, TypeError) as error:
        # It is a memory, no more: asking again is right whatever is wrong with it.
        _log.debug("asking %s: %s", HOST, error)
    why = (ask or untrusted)(ca)
    if why:
        vouch = f"{ca} does not vouch for it" if ca else "no CA bundle is known that vouches for it"
        raise PrerequisiteError(
            f"The connection to {HOST} is intercepted, and {vouch} ({why})",
            remedy="Name the CA bundle of whoever intercepts it with --ca or PIPELINE_CA",
        )
    span = UNREACHABLE_FOR if why is None else TRUSTED_FOR
    state.remember(file, json.dumps({"mark": mark, "at": time.time(), "for": span}))


def untrusted(ca: Path | None, host: str = HOST, port: int = 443) -> str | None:
    """Return why a host's certificate is not trusted, empty when it is; None without an answer.

    Args:
        ca: What is trusted; what OpenSSL trusts by itself when None.
        host: Whose certificate.
        port: Where it listens.
    """
    import socket  # these three only when nothing is remembered
    import ssl
    import threading

    outcome: list[str | None] = []

    def ask() -> None:
        try:
            trust = ssl.create_default_context(cafile=None if ca is None else str(ca))
            with (
                socket.create_connection((host, port), timeout=LIMIT) as raw,
                trust.wrap_socket(raw, server_hostname=host),
            ):
                outcome.append("")
        except ssl.SSLCertVerificationError as error:
            outcome.append(error.verify_message)
        except OSError:
            # No network, or only through a proxy: builds will say what they cannot get.
            outcome.append(None)

    # A thread that may be left behind: the look-up of a name has no limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * LIMIT)
    return outcome[0] if outcome else None


def _mark(ca: Path | None) -> str:
    if ca is None:
        return ""
    status = ca.stat()
    return f"{ca} {status.st_mtime_ns} {status.st_size}"


def _joined(certificates: list[str]) -> str:
    return "".join(f"{certificate}\n" for certificate in certificates)


def _body(certificate: str) -> str:
    """Return the encoded part alone, however its lines were broken."""
    return "".join(certificate.split("-----")[2].split())
