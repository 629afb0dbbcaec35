"""Tests of the embedded engine on a runtime in memory."""
