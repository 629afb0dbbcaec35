"""The API as the world sees it: through Nginx, with Docker behind the socket proxy."""
