"""What the toolchain knows of engines, one folder each."""
