"""How a process gives up rights, for good: what the helper's leases, control and workers have in common.

Each module is about one thing that the kernel offers. What a process keeps stands with that process: see
ixy_vfio_helper/sandbox.py, ixy_vfio/runtime/sandbox.py and ixy_vfio/runtime/control_seal.py. Standard library only.
"""
