"""What frames come from and go to besides a NIC: capture files. Imports the core only; the simulator uses it."""
