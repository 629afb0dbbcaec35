"""The tests of the project; `unit` needs nothing, the other folders what their markers name."""
