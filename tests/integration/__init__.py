"""Tests against real programs, mostly a Docker Engine."""
