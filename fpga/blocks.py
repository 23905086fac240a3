"""Names by which the engines' blocks are found in a netlist."""

import re

CLUSTER = re.compile(r"(.*?)\.cluster_(\d+)\.")
"""In the name of a cell of a flat netlist: the array that it is in, and its cluster's number."""

CORES = "*.accelerator.*.core"
"""The modules of a system's cores, in Yosys."""

BORDERS = "*.cluster *.cluster_? *.tile"
"""Modules in Yosys that stand while they are mapped. The clusters', one a configuration: each is
mapped once, and none loses its registers to another whose registers hold the same. A tensor core's
tile: without, Yosys 0.70 stops at an assertion in abc9."""

WEIGHTS = "c:*.spmat.half_*.memory"
"""The weight memories of an EIE array, in Yosys."""
