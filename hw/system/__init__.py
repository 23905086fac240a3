"""A system: engines behind registers on one bus, and the top of a board."""
