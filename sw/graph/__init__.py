"""The model representation."""
