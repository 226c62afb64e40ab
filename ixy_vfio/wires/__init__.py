"""What frames come from and go to besides a NIC: capture files, TAPs, interfaces. Imports the core only."""
