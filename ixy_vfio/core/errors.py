"""Everything that the project raises, as one tree. Each class knows the exit status of the command it ends.

IxyError
+- UsageError        2  asked for something that cannot be: a bad address, a ring of 100 descriptors
|  +- CaptureError   2  a capture file cannot be read, or what is in it cannot be put on a wire
+- RefusedError      2  the helper said no, and why
+- SealError         2  a process could not be sealed; or not fully, and --require-sealed was given
+- SystemRefused     1  the system refuses a call that nothing can be done without; it is named
+- LeaseError        1  the helper is gone, or ended the lease
+- DeviceError       1
|  +- DeviceGone     1  the device answers all ones: removed, or its power is off
|  +- DeadlineError  1  a register did not reach a value in time
|  +- LinkDown       1  no link within the deadline
+- WorkerError       1  a worker died
"""


class IxyError(Exception):
    """Base class. The message is one line and says what to do."""

    exit_status = 1


class UsageError(IxyError):
    """The caller asked for something that cannot be. Nothing was touched."""

    exit_status = 2


class CaptureError(UsageError):
    """A capture file cannot be read, or holds what cannot be put on an Ethernet wire as it was."""


class RefusedError(IxyError):
    """The helper refused, and said why."""

    exit_status = 2


class SealError(IxyError):
    """A process could not be sealed, or not as it was required to be. No packet has been received."""

    exit_status = 2


class SystemRefused(IxyError):
    """The system refuses a call that nothing can be done without. The message names the call."""


class LeaseError(IxyError):
    """The helper cannot be reached any more, or has ended the lease."""


class DeviceError(IxyError):
    """The device does not do what the datasheet says."""


class DeviceGone(DeviceError):
    """Every read answers all ones: the device was removed, or is powered off."""


class DeadlineError(DeviceError):
    """A register did not reach the wanted value in time. The message has register, mask and last value."""


class LinkDown(DeviceError):
    """The link did not come up within the deadline."""


class WorkerError(IxyError):
    """A worker process died, or reported an error."""
