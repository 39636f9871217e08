"""Prefect flows around the DVC stages, and the command line."""
