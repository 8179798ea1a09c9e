"""Fleet: how many devices, from queueing theory and a search."""
