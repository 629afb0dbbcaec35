"""The system from outside: what is measured, who is called when, and what is logged."""
