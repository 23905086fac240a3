"""From gateware to devices: synthesis, and what it costs."""
