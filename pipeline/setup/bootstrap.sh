#!/bin/sh
# Make .venv, the locked environment, from nothing but Python 3.11 or later; `make` calls it first.
# When nothing changed it costs a checksum. Exit 3: something is missing, and is named, in junit.xml
# of the report folder as well: no run can tell it.
set -eu

UV_VERSION=0.13.9   # what is installed where PATH has no uv
UV_LEAST=0.8        # the least that will do from PATH, as in pyproject.toml

cd "$(dirname "$0")/../.."
venv=${UV_PROJECT_ENVIRONMENT:-.venv}
stamp=$venv/.slipway
cache=${XDG_CACHE_HOME:-$HOME/.cache}/slipway

say() { printf '%s\n' "$*" >&2; }

lack() { # what is missing, how to get it
    say "$1."
    say "  $2"
    report "$1. $2" || say "(${PIPELINE_REPORT_DIR:-reports}/junit.xml cannot be written)"
    exit 3
}

report() { # in the place of an earlier run's reports, as `python -m pipeline` has them
    folder=${PIPELINE_REPORT_DIR:-reports}
    mkdir -p "$folder" && rm -f "$folder/report.json" "$folder/report.html" || return 1
    told=$(printf '%s' "$*" | sed 's/&/\&amp;/g; s/</\&lt;/g; s/"/\&quot;/g')
    cat >"$folder/junit.xml" <<XML
<?xml version="1.0" encoding="utf-8"?>
<testsuites name="slipway" tests="1" failures="0" errors="1" skipped="0" time="0.000">
  <testsuite name="steps" tests="1" failures="0" errors="1" skipped="0" time="0.000">
    <testcase name="environment" classname="slipway" time="0.000">
      <error message="$told"/>
    </testcase>
  </testsuite>
</testsuites>
XML
}

wanted() { # what the environment was made from
    cksum uv.lock pyproject.toml pipeline/setup/bootstrap.sh
    pwd
}

made() { # whether the environment is there and made from what is here now
    [ -x "$venv/bin/python" ] && wanted | cmp -s - "$stamp" && "$venv/bin/python" -c '' 2>/dev/null
}

made && exit 0

# A shim of a version manager may lead nowhere and hide a Python further down PATH: ask each one
# that is there for its real name.
find_python() {
    for name in python3.11 python3.12 python3.13 python3.14 python3 python; do
        IFS=:
        for folder in $PATH; do
            [ -x "$folder/$name" ] && "$folder/$name" -c 'import sys
if sys.version_info < (3, 11): sys.exit(1)
print(sys.executable)' 2>/dev/null </dev/null && return
        done
    done
}
python=$(find_python) || true
[ -n "$python" ] || lack "Python 3.11 or later is not on PATH" \
    "Install it, for example with \`apt-get install python3\` (Debian 12 or later)."

# An intercepting proxy's CA is in the system's bundle; pip and uv bring bundles of their own.
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [ -r "$bundle" ]; then
    export SSL_CERT_FILE="$bundle" PIP_CERT="${PIP_CERT:-$bundle}"
fi
export UV_SYSTEM_CERTS=1 UV_NATIVE_TLS=1 UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
export PIP_DISABLE_PIP_VERSION_CHECK=1

recent() { # whether this uv is recent enough
    found=$("$1" --version 2>/dev/null | cut -d' ' -f2) && [ -n "$found" ] &&
        [ "$(printf '%s\n%s\n' "$UV_LEAST" "$found" | sort -V | head -n 1)" = "$UV_LEAST" ]
}

apt_get() { # waits up to 2 minutes for another apt; $log has what it said
    tries=60
    until DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 \
        -o Dpkg::Use-Pty=0 "$@" >"$log" 2>&1 </dev/null
    do
        grep -q 'Could not get lock' "$log" && [ "$tries" -gt 0 ] || return 1
        tries=$((tries - 1))
        sleep 2
    done
}

ensure_venv_module() {
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        lack "uv is not on PATH, and $python has no module venv to install it with" \
            "Run \`sudo apt-get install $package\`, or install uv: https://docs.astral.sh/uv/."
    fi
    say "Installing $package (apt-get)"
    log=$(mktemp)
    if ! { apt_get update && apt_get --yes --no-install-recommends install "$package"; }; then
        tail -n 20 "$log" >&2
        rm -f "$log"
        lack "$package cannot be installed" "Install it by hand to see why, or install uv."
    fi
    rm -f "$log"
}

# Two at once, in one checkout or in two, take turns; the kernel lets go of the lock with us.
if command -v flock >/dev/null && mkdir -p "$cache" && exec 9>"$cache/lock"; then
    flock -w 600 9 || lack "Another set-up has held $cache/lock for 10 minutes" "End it, or wait."
    made && exit 0
fi

uv=$(command -v uv || true)
if [ -z "$uv" ] || ! recent "$uv"; then
    uv=$cache/uv-$UV_VERSION/bin/uv
    if ! recent "$uv"; then
        ensure_venv_module
        say "Installing uv $UV_VERSION into $cache"
        mkdir -p "$cache"
        # Beside its place, and moved there whole: two checkouts may do this at once.
        new=$cache/uv-$UV_VERSION.$$
        trap 'rm -rf "$new"' EXIT
        trap 'exit 130' INT TERM
        "$python" -m venv "$new"
        "$new/bin/python" -m pip install --quiet "uv==$UV_VERSION" </dev/null ||
            lack "uv $UV_VERSION cannot be installed from PyPI" \
                "Check the network, PIP_INDEX_URL and PIP_CERT; or install uv by other means."
        # uv is one program that needs nothing else of the environment that brought it.
        mkdir -p "$cache/uv-$UV_VERSION/bin"
        mv -f "$new/bin/uv" "$uv"
    fi
fi

say "Making $venv from uv.lock"
"$uv" sync --frozen --quiet --python "$python" </dev/null ||
    lack "The environment cannot be made from uv.lock" \
        "See above; behind a proxy set SSL_CERT_FILE to its CA bundle, UV_INDEX_URL to its mirror."
wanted >"$stamp"
