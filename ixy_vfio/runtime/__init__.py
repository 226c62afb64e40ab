"""Processes: control, which sets up, and workers, which see packets."""
