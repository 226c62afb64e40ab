"""Prepares a machine to lease a NIC, and puts it back: `scripts/setup`. Standard library only; runs as root."""
