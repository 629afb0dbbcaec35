"""This pipeline beside the imperative steps that it replaces."""
