"""The manifests agree with what they run, and docs/manifests.md with the manifests."""

from __future__ import annotations

import re

import pytest

from pipeline.cluster import minikube

from . import tools
from .objects import BASE, OVERLAYS, ROOT, Object, load, name_of, one, parse, pod_of

SERVICE = ROOT / "service/slipway_api"
CONFIGURATION = (ROOT / "nginx/conf/http.conf").read_text()
TEMPLATE = (ROOT / "nginx/templates/proxy.conf.template").read_text()
ENTRYPOINT = (ROOT / "nginx/slipway-nginx").read_text()
DOCUMENT = (ROOT / "docs/manifests.md").read_text()
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def container(name: str) -> Object:
    """Return the container of a Deployment of the base."""
    (found,) = pod_of(one(load(BASE), "Deployment", name))["containers"]
    assert isinstance(found, dict)
    return found


def environment(name: str) -> dict[str, str]:
    """Return the variables of a Deployment of the base that have a value."""
    return {each["name"]: each["value"] for each in container(name)["env"] if "value" in each}


def asked(name: str) -> dict[str, str]:
    """Return what each probe of a Deployment of the base asks for."""
    return {each: container(name)[each]["httpGet"]["path"] for each in PROBES}


def test_api_is_asked_what_it_answers() -> None:
    """Liveness asks the process, readiness asks for the list, and the log leaves both out."""
    source = (SERVICE / "health.py").read_text()
    assert asked("slipway-api") == dict(zip(PROBES, ("/livez", "/livez", "/readyz"), strict=True))
    for path in set(asked("slipway-api").values()):
        assert re.search(rf'@routes.get\(\s*"{path}"', source)


def test_nginx_is_asked_what_it_answers() -> None:
    """Itself, and not what is behind it."""
    assert set(asked("slipway-nginx").values()) == {"/nginx-health"}
    assert "location = /nginx-health {" in TEMPLATE


def test_ports_are_those_that_are_listened_on() -> None:
    """The port of a container is the one that its program takes by itself."""
    (api,), (nginx,) = container("slipway-api")["ports"], container("slipway-nginx")["ports"]
    assert f'bind: str = "0.0.0.0:{api["containerPort"]}"' in (SERVICE / "config.py").read_text()
    assert f'proxy) echo "${{PORT:-{nginx["containerPort"]}}}" ;;' in ENTRYPOINT
    assert "listen ${LISTEN} default_server;" in TEMPLATE
    assert 'render "$1" "$run" "$(port "$1")"' in ENTRYPOINT
    assert "PORT" not in environment("slipway-nginx")
    assert f"\nEXPOSE {nginx['containerPort']}\n" in (ROOT / "nginx/Dockerfile").read_text()


def test_scraper_is_sent_to_the_metrics() -> None:
    """The annotations of the API's pods name the port and the path that it has them on."""
    (patch,) = parse((ROOT / "k8s/components/monitoring/deployment-api.yaml").read_text())
    (port,) = container("slipway-api")["ports"]
    assert patch["metadata"]["name"] == "slipway-api"
    assert patch["spec"]["template"]["metadata"]["annotations"] == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(port["containerPort"]),
        "prometheus.io/path": "/metrics",
    }
    assert 'PATH = "/metrics"' in (SERVICE / "metrics.py").read_text()


def test_document_says_which_pods_may_scrape() -> None:
    """The ones that the API's policy lets in."""
    (_, scraper) = one(load(BASE), "NetworkPolicy", "slipway-api")["spec"]["ingress"][0]["from"]
    ((key, value),) = scraper["podSelector"]["matchLabels"].items()
    (namespace,) = scraper["namespaceSelector"]["matchLabels"].values()
    text = " ".join((ROOT / "docs/monitoring.md").read_text().split())
    assert f"pods labelled `{key}: {value}` in the namespace `{namespace}`" in text


def test_settings_are_read() -> None:
    """A variable that is set is one that something reads."""
    variables = set(re.findall(r'": "([A-Z_]+)"', (SERVICE / "config.py").read_text()))
    assert environment("slipway-api").keys() <= variables
    own = {"CLUSTER_DOMAIN"}
    upstream = environment("slipway-nginx")["API_UPSTREAM"]
    assert all(f"$({each})" in upstream for each in own)
    read = set(re.findall(r'"\$\{([A-Z_]+):=', ENTRYPOINT))
    assert environment("slipway-nginx").keys() - own == {"API_UPSTREAM"}
    for folder in (ROOT / "k8s/components/ingress", ROOT / "tests/cluster/overlay"):
        (patch,) = parse((folder / "deployment-nginx.yaml").read_text())
        (nginx,) = pod_of(patch)["containers"]
        assert {each["name"] for each in nginx["env"]} <= read - {"API_UPSTREAM"}
    assert "API_UPSTREAM" in read


def test_upstream_is_the_service_of_the_api() -> None:
    """Under its full name, and its port."""
    (port,) = one(load(BASE), "Service", "slipway-api")["spec"]["ports"]
    upstream = environment("slipway-nginx")["API_UPSTREAM"]
    assert upstream == f"slipway-api.$(POD_NAMESPACE).svc.$(CLUSTER_DOMAIN):{port['port']}"


def test_start_up_probe_outlasts_the_wait_for_the_name() -> None:
    """Nginx says what is missing before it is killed for being slow."""
    limit = re.search(r"^name_limit=(\d+)$", ENTRYPOINT, re.MULTILINE)
    assert limit
    probe = container("slipway-nginx")["startupProbe"]
    # The DNS of kubeadm, and so of Minikube, remembers for 30 s that there is no such name.
    assert 30 < int(limit[1]) < probe["periodSeconds"] * probe["failureThreshold"]


def test_connections_end_before_their_pod_does() -> None:
    """What is kept alive is closed politely while preStop sleeps, and not under a request."""
    both = CONFIGURATION + TEMPLATE
    limits = [int(each) for each in re.findall(r"keepalive_time (\d+)s;", both)]
    assert len(limits) == 2
    assert max(limits) < container("slipway-nginx")["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_what_is_in_flight_has_the_time_that_the_grace_period_leaves() -> None:
    """Both programs give up before they are killed: preStop, then 8 s, then some to spare."""
    assert environment("slipway-api")["SLIPWAY_GRACEFUL_TIMEOUT"] == "8"
    assert "drain_delay: float = 1.0" in (SERVICE / "config.py").read_text()
    pod = pod_of(one(load(BASE), "Deployment", "slipway-api"))
    sleep = container("slipway-api")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep + 1 + 8 < pod["terminationGracePeriodSeconds"]
    assert "worker_shutdown_timeout 8s;" in TEMPLATE


def test_only_tmp_is_written_to() -> None:
    """Nginx writes under TMPDIR, which is not set, and so to /tmp."""
    assert "${TMPDIR:-/tmp}" in ENTRYPOINT
    assert "TMPDIR" not in environment("slipway-nginx")


def test_minikube_is_started_with_what_its_overlay_wants() -> None:
    """A CNI that enforces the policies, which its default one does not."""
    asked_for = f"`--cni={minikube.CNI}`"
    assert asked_for in (OVERLAYS["minikube"] / "kustomization.yaml").read_text()
    assert f"`minikube start {asked_for[1:]}" in DOCUMENT


def test_document_has_each_object() -> None:
    """An object that is added is added to the document: its kind in the table, its name too."""
    table = DOCUMENT.partition("## What each object is for")[2].partition("\n## ")[0]
    for each in load(BASE):
        assert each["kind"] in table, each["kind"]
        if each["kind"] in {"NetworkPolicy", "Namespace"}:
            assert f"`{name_of(each)}`" in table


@pytest.mark.parametrize("name", tools.WORKLOADS)
def test_document_has_what_a_replica_asks_for(name: str) -> None:
    """The cost of a replica, as the manifests have it."""
    resources = container(name)["resources"]
    cells = [
        " / ".join(str(resources[side][resource]) for side in ("requests", "limits"))
        for resource in ("cpu", "memory", "ephemeral-storage")
    ]
    assert f"| `{name}` | {' | '.join(cells)} |" in DOCUMENT


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("row", "name"), [("API pods", "slipway-api"), ("Nginx pods", "slipway-nginx")]
)
def test_document_has_how_many_there_are(
    row: str, name: str, rendered: dict[str, list[Object]]
) -> None:
    """In each overlay, as it is rendered."""
    specs = [one(rendered[key], "ScaledObject", name)["spec"] for key in rendered]
    numbers = [f"{each['minReplicaCount']} to {each['maxReplicaCount']}" for each in specs]
    assert f"| {row} | {' | '.join(numbers)} |" in DOCUMENT
