"""Tests of the API; they need no Docker."""
