"""The parts of a program, one per machine, and the numbers that go in and out of them."""
