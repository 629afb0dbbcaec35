"""Tests of the nginx image; they run in its `test` stage, against the nginx that is in it."""
