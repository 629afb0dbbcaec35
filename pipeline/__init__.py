"""Slipway: one portable pipeline from source to verified, pushed images."""
