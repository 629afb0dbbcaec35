"""The OpenAPI document, made from the routes, and the page that shows it.

``python3 -m slipway_api.openapi`` prints the document.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import flask_openapi3_swagger
from flask import Blueprint, Response, render_template_string
from flask_openapi3 import Info, OpenAPI
from flask_openapi3.models import License
from flask_openapi3_swagger.templates import swagger_html_string

from slipway_api import problem

if TYPE_CHECKING:
    from collections.abc import Iterable

PATH = "/openapi.json"

_SWAGGER = Path(flask_openapi3_swagger.__file__).parent / "templates" / "swagger"


class Application(OpenAPI):
    """A Flask application that knows what its routes promise."""

    def __init__(self, import_name: str) -> None:
        super().__init__(
            import_name,
            info=Info(
                title="Slipway",
                version="1",
                summary="Lists the containers running around it.",
                description=(
                    "Every error is `application/problem+json` (RFC 9457). Every answer has an"
                    " `X-Request-ID`: that of the request if it is safe, or a new one."
                ),
                license=License(name="Apache-2.0", identifier="Apache-2.0"),
            ),
            validation_error_status=400,
            validation_error_model=problem.Problem,
            validation_error_callback=problem.from_validation,
            doc_ui=False,
            static_folder=None,
        )

    def generate_spec_json(self) -> None:
        """Make the document, without what flask-openapi3 puts into every one."""
        super().generate_spec_json()  # type: ignore[no-untyped-call]
        # Null when there are none, which OpenAPI does not allow.
        del self.spec_json["components"]["securitySchemes"]
        for item in self.spec_json["paths"].values():
            for operation in item.values():
                # An answer to bad parameters, also of what takes none.
                added = operation["responses"].get("400", {}).get("content", {})
                if "application/json" in added:
                    del operation["responses"]["400"]


def document(app: Application) -> str:
    """Write the document of an application as JSON, ending with a newline."""
    return json.dumps(app.api_doc, indent=2, ensure_ascii=False) + "\n"


def register(app: Application) -> None:
    """Serve ``/openapi.json`` and ``/docs``."""
    # The page asks for these names relative to itself.
    routes = Blueprint(
        "docs", __name__, static_folder=str(_SWAGGER), static_url_path=f"/{_SWAGGER.name}"
    )
    text = cache(lambda: document(app).encode())

    @cache
    def page() -> tuple[str, str]:
        made = render_template_string(
            swagger_html_string,
            doc_url=PATH,
            # By itself it would have the document checked by a server of Swagger's.
            swagger_config={"validatorUrl": None},
            oauth_config=None,
        )
        script = (_SWAGGER / "js" / "swagger-ui-standalone-preset.js").read_text(encoding="utf-8")
        return made, policy(made, script)

    @routes.get(PATH)
    def openapi() -> Response:
        """Answer the document."""
        return Response(text(), mimetype="application/json")

    @routes.get("/docs")
    def docs() -> Response:
        """Answer the page, which comes with its scripts and asks nobody else."""
        made, allowed = page()
        return Response(made, headers={"Content-Security-Policy": allowed})

    app.register_blueprint(routes)


def policy(page: str, script: str) -> str:
    """Return a content security policy that lets a page run what is written in it, by hash.

    Nobody can put a script into it that was not there when it was made, and it reaches nobody but
    this server.

    Args:
        page: The page.
        script: The one of its scripts that puts styles of its own into the page.
    """
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    styles += re.findall(r'createElement\("style",null,"([^"\\]*)"\)', script)
    return (
        f"default-src 'none'; script-src 'self' {_hashes(scripts)};"
        f" style-src 'self' {_hashes(styles)}; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(texts: Iterable[str]) -> str:
    digests = (b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def main() -> None:
    """Print the document."""
    from slipway_api.app import create_app
    from slipway_api.config import Settings

    print(document(create_app(Settings())), end="")  # noqa: T201 - it is what it is for


if __name__ == "__main__":
    main()
