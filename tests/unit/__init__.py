"""Tests that need nothing but the package."""
