"""What leads from outside to the bus: the serial line and its frames."""
