"""Applications that run in the image of the API, under its gunicorn."""
