"""The engine's nouns as frozen values. Nothing in here does I/O."""
