"""The command line: the one place that composes all parts, each command with its own imports."""
