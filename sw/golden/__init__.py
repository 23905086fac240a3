"""Integer references, written from the specification and never from the RTL."""
