"""A Flask application that lists containers with a Docker client made for each request.

It is the way that the API is measured against, and what many an application does that begins with
docker-py's own example: the list, and after it a question about each container on it.
"""

from __future__ import annotations

import docker
from flask import Flask

app = Flask(__name__)


@app.get("/")
def containers() -> list[dict[str, str | None]]:
    """List the containers that run."""
    client = docker.from_env()
    try:
        return [
            {"id": each.short_id, "name": each.name, "status": each.status}
            for each in client.containers.list()
        ]
    finally:
        client.close()
