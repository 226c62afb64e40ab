"""What a step of a setup is, and the places that several of them know."""

from typing import ClassVar

from ixy_vfio_helper import policy

from ixy_vfio_setup.journal import Record
from ixy_vfio_setup.system import System

LIBRARY = "/usr/local/lib/ixy_vfio"
LAUNCHER = "/usr/local/sbin/ixy-vfio-helper"
RUN = "/run/ixy_vfio"
SOCKET = f"{RUN}/helper.sock"
POLICY = str(policy.PATH)
SYSTEMD = "/etc/systemd/system"
UNITS = ("ixy-vfio-helper.socket", "ixy-vfio-helper.service")


class Step:
    """One step: what it is called, whether it is needed, how it is done, and how it is undone.

    `record` is asked right before `do` is called. It holds all that the undo needs, which may run in a later process,
    after the step was done, half done, or not done. It has "kind" and "device" ("" if all devices need the step).
    """

    kind: ClassVar[str]
    journaled: ClassVar[bool] = True  # setup's journal keeps the record; else another journal has it

    @property
    def text(self) -> str:
        """What is done, in words."""
        raise NotImplementedError

    def needed(self) -> bool:
        """Whether it is not done yet."""
        raise NotImplementedError

    def record(self) -> Record:
        """What the undo needs to know."""
        return {"kind": self.kind, "device": ""}

    def do(self) -> None:
        """Do it. Raises OSError or SetupError."""
        raise NotImplementedError

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means, in words."""
        raise NotImplementedError

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Undo it; returns what people should know, or "". Raises OSError or SetupError."""
        raise NotImplementedError
