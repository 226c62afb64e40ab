"""What the harness raises."""


class VmError(Exception):
    """The guest, or what it needs, does not do what it should. One line that says what to do."""


class Missing(VmError):
    """Something the machine lacks. The message says what, and how to get it; a test skips with it."""


class GuestDied(VmError):
    """QEMU has ended, or the guest does not answer. The message ends with the last lines of its console."""
