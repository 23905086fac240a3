"""The toolchain, from a trained model to a program, and the command line over all of it."""
