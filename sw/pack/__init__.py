"""Packed formats: how a sparse matrix lies in the memories."""
