"""The embedded engine: Dagger's GraphQL API, served from one process on top of Docker."""

__version__ = "0.1.0"
