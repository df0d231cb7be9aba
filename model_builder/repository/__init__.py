"""Writes the Triton model repository."""
