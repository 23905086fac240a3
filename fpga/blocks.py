"""Names by which the engines' blocks are found in a netlist."""

import re

CLUSTER = re.compile(r"(.*?)\.cluster_(\d+)\.")
"""In the name of a cell of a flat netlist: the array that it is in, and its cluster's number."""

CORES = "*.accelerator.*.core"
"""The modules of a system's cores, in Yosys."""

CLUSTERS = "*.cluster *.cluster_?"
"""The clusters' modules, one a configuration, in Yosys. While one stands it is mapped once, and no
cluster loses its registers to another whose registers hold the same."""

WEIGHTS = "c:*.spmat.half_*.memory"
"""The weight memories of an EIE array, in Yosys."""
