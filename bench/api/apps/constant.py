"""A Flask application whose one route answers a constant: what a server costs that does nothing."""

from __future__ import annotations

from flask import Flask

app = Flask(__name__)


@app.get("/")
def constant() -> dict[str, str]:
    """Answer."""
    return {"status": "ok"}
