"""What the pipeline may rely on from any engine."""
