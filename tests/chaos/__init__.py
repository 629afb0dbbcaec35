"""What goes wrong on purpose under a load, and what a client sees of it."""
