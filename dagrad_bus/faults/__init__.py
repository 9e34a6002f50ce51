"""Faults on purpose, for real processes: a TCP proxy, network namespaces, herds of light workers, the fault matrix."""
