"""What Python gets: models compiled, called and verified."""
