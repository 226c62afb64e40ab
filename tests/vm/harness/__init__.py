"""Boots QEMU guests on the host's own files, for tests that need real VFIO and an IOMMU. Standard library only."""

from tests.vm.harness.errors import GuestDied, Missing, VmError
from tests.vm.harness.guest import CommandFailed, Guest, Process, Result
from tests.vm.harness.machine import Config

__all__ = ["CommandFailed", "Config", "Guest", "GuestDied", "Missing", "Process", "Result", "VmError"]
