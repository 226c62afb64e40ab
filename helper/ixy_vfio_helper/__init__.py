"""The privileged helper. Imports the standard library only.

What messages of a client reach, in reading order: protocol, monitor, memory, claims, kernel, vfio, iommufd.
Around it: server (who may connect; a process for each lease), policy, sandbox. This package cannot bind a device: that
is another program, in ixy_vfio_setup, which root's commands start.
"""
