"""From a model file to a program: front ends, quantised layers, memory images."""
