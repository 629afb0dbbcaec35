"""How gunicorn serves the API: ``gunicorn --config python:slipway_api.gunicorn_conf``."""

from __future__ import annotations

import os
import sys

from slipway_api.config import Settings, SettingsError

try:
    _settings = Settings.from_environment(os.environ)
    _settings.chosen_source()
except SettingsError as error:
    # The exit code of a usage error; gunicorn would print a traceback.
    print(f"slipway-api: {error}", file=sys.stderr)  # noqa: T201 - there is no log yet
    raise SystemExit(2) from None

wsgi_app = "slipway_api.app:from_environment()"
# Imports once, in the parent, so that a second worker costs little time and memory. Nothing in the
# application starts a thread or opens a connection before the first request, so forking is safe.
preload_app = True

bind = [_settings.bind]
workers = _settings.workers
worker_class = "gthread"
threads = _settings.threads
# The heartbeat of a worker is a file; on a disk, a slow write looks like a worker that hangs.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: PTH112, S108
# It wants a writable home, and nothing here uses it.
control_socket_disable = True
graceful_timeout = _settings.graceful_timeout
# Longer than a proxy keeps an idle connection (Nginx: 60 s), so that it is the proxy that closes
# it; the other way round, it can be closed under a request that is on its way.
keepalive = 75

loglevel = _settings.log_level
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(B)s %(M)sms'
logger_class = "slipway_api.access_log.QuietLogger"
