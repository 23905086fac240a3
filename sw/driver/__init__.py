"""What a host writes into a machine, whatever carries the words."""
