"""What status, releases and diff print."""

from __future__ import annotations

import dataclasses

from pipeline.deploy.readiness import Snapshot
from pipeline.deploy.release import RELEASE
from pipeline.deploy.tables import difference, releases, status

from .deploy_fakes import manifest, release


def test_releases_are_a_table_with_the_newest_first() -> None:
    """Each has its number, state and origin; why one failed is told below."""
    known = [
        dataclasses.replace(release(), number=1, state="deployed", created_at="2026-01-01"),
        dataclasses.replace(release(), number=2, state="failed", reason="it crashes"),
    ]
    lines = list(releases(known))
    assert lines[0].split() == [
        "release",
        "state",
        "deployed",
        "at",
        "revision",
        "overlay",
        "images",
        "from",
    ]
    assert lines[1].startswith("2        failed")
    assert lines[2].split() == [
        "1",
        "deployed",
        "2026-01-01",
        "6a0c4e2",
        "minikube",
        known[0].origin,
    ]
    assert lines[3] == "release 2 failed: it crashes"


def test_status_has_release_images_objects_and_warnings() -> None:
    """The latest warnings are there, and what is no warning is not."""
    events = tuple(
        {
            "type": kind,
            "reason": "Unhealthy",
            "message": f"message {n}",
            "lastTimestamp": f"2026-01-01T00:00:{n:02}Z",
            "involvedObject": {"kind": "Pod", "name": "p"},
        }
        for n, kind in enumerate(["Warning"] * 12 + ["Normal"])
    )
    made = dataclasses.replace(release(), number=4, state="deployed")
    rows = (("Deployment d", "ready", "2 of 2 available"),)
    text = "\n".join(status(made, Snapshot(events=events), rows))
    assert "release    4 (deployed)" in text
    assert f"api: {made.images[0].pulled('')}" in text
    assert "Deployment d  ready  2 of 2 available" in text
    assert "2026-01-01T00:00:11Z  Pod p: Unhealthy: message 11" in text
    assert "message 1\n" not in text
    assert "message 12" not in text


def test_no_difference_when_only_bookkeeping_changes() -> None:
    """What the cluster counts and what each release changes is no difference."""
    before = manifest("v1", "ConfigMap", "c", data={"a": "1"}, status={"x": 1})
    before["metadata"] |= {"resourceVersion": "1", "annotations": {RELEASE: "1"}}
    after = manifest("v1", "ConfigMap", "c", data={"a": "1"})
    after["metadata"] |= {"resourceVersion": "2", "annotations": {RELEASE: "2"}}
    assert difference(before, after) == ()
    assert difference(None, None) == ()


def test_difference_is_a_unified_diff() -> None:
    """A change, a new object and one that goes are told apart."""
    one, two = (manifest("v1", "ConfigMap", "c", data={"a": value}) for value in ("1", "2"))
    changed = difference(one, two)
    assert changed[0] == "--- ConfigMap c (in the cluster)"
    assert "-  a: '1'" in changed
    assert "+  a: '2'" in changed
    assert difference(None, one)[0] == "--- (not in the cluster)"
    assert difference(one, None)[1] == "+++ (to be deleted)"


def test_difference_shows_no_secret() -> None:
    """The values of a Secret are masked."""
    text = "\n".join(difference(None, manifest("v1", "Secret", "s", data={"k": "aHVudGVyMg=="})))
    assert "aHVudGVyMg" not in text
    assert "+  k: '***'" in text
