"""The benchmark: the forwarder's own loop beside the same work in C, on one model NIC (docs/performance.md)."""
