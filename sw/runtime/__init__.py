"""Running programs: backends by name, verification, boards and their link."""
