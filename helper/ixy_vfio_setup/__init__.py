"""What changes the machine for a lease, and changes it back. Standard library only; runs as root.

commands: bind, unbind, status and recover of `ixy-vfio-helper` (bind, bound, netstate, netrestore and what they use).
__main__: `scripts/setup`, which makes a whole machine ready (steps, journal, look, machine, trust).
"""
