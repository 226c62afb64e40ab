"""The privileged helper. Imports the standard library only."""
