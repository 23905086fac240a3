"""Interchange formats of sparse weights, and bounded readers of files."""
