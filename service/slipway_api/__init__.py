"""The API: lists the containers that run around it."""
