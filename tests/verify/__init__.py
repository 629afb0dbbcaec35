"""The suite that asks the running system, from outside, whether it does what it should."""
