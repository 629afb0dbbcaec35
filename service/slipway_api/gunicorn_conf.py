"""How gunicorn serves the API: ``gunicorn --config python:slipway_api.gunicorn_conf``."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
import tempfile
from typing import TYPE_CHECKING

from slipway_api import log
from slipway_api.config import Settings, SettingsError
from slipway_api.drain import draining

if TYPE_CHECKING:
    from gunicorn.arbiter import Arbiter
    from gunicorn.http.message import Request

    from slipway_api.worker import Worker

try:
    _settings = Settings.from_environment(os.environ)
    _settings.chosen_source()
except SettingsError as error:
    # The exit code of a usage error; gunicorn would print a traceback.
    print(f"slipway-api: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
    raise SystemExit(2) from None

# Memory where there is some that looks like files, and in any case writable on a read-only root.
_memory = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108

# Where workers add up their metrics. New at each start, so that nothing is counted twice; the
# application reads the variable when it is imported, which is later.
_metrics = tempfile.mkdtemp(prefix="slipway-metrics-", dir=_memory)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = _metrics

wsgi_app = "slipway_api.app:from_environment()"
# Imports once, in the parent, so that a second worker costs little time and memory. Nothing in the
# application starts a thread or opens a connection before the first request, so forking is safe.
preload_app = True

bind = [_settings.bind]
workers = _settings.workers
worker_class = "slipway_api.worker.Worker"
threads = _settings.threads
# The heartbeat of a worker is a file; on a disk, a slow write looks like a worker that hangs.
worker_tmp_dir = _memory
# It wants a writable home, and nothing here uses it.
control_socket_disable = True
graceful_timeout = _settings.graceful_timeout
# Longer than a proxy keeps an idle connection (Nginx: 60 s), so that it is the proxy that closes
# it; the other way round, it can be closed under a request that is on its way.
keepalive = 75
# As much as the proxy passes on, and gunicorn can be told.
limit_request_line = 8190

loglevel = _settings.log_level
logger_class = "slipway_api.access_log.EcsLogger"
logconfig_dict = log.configuration(_settings.log_level)


def when_ready(server: Arbiter) -> None:
    """Have SIGTERM raise the flag first, and stop the server when the delay is over."""

    def stop(*_: object) -> None:
        server.signal(signal.SIGTERM, None)

    def drain(*_: object) -> None:
        if os.getpid() != server.pid:
            # A worker that is told to stop before it has handlers of its own, and so serves nobody.
            os._exit(0)
        if draining:
            return
        draining.up()
        if _settings.drain_delay:
            signal.setitimer(signal.ITIMER_REAL, _settings.drain_delay)
        else:
            stop()

    signal.signal(signal.SIGALRM, stop)
    signal.signal(signal.SIGTERM, drain)


def pre_fork(server: Arbiter, worker: Worker) -> None:
    """Give a worker the first slot that none has that lives."""
    taken = {getattr(other, "slot", None) for other in server.WORKERS.values()}
    worker.slot = next(slot for slot in itertools.count() if slot not in taken)


def pre_request(worker: Worker, request: Request) -> None:
    """End a connection with its answer when the server is about to stop."""
    del worker
    if draining:
        request.force_close()


def on_exit(server: Arbiter) -> None:
    """Remove the metrics, which nobody can ask for any more."""
    del server
    shutil.rmtree(_metrics, ignore_errors=True)
