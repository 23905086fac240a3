"""The EIE array (Han et al., "EIE: Efficient Inference Engine on Compressed Deep Neural
Network", ISCA 2016), each block of the paper in a file of its own."""
