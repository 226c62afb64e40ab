"""Steps that give the NIC: to the user, by the helper's policy; and to vfio-pci."""

from dataclasses import dataclass

from ixy_vfio_helper.kernel import VFIO_PCI, PciDevice
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup import grants
from ixy_vfio_setup.bound import SETUP
from ixy_vfio_setup.journal import Record, bind_record, bound
from ixy_vfio_setup.step import LAUNCHER, POLICY, Step
from ixy_vfio_setup.system import SetupError, System


@dataclass(frozen=True)
class Grant(Step):
    """Let the user lease the device: the policy file, from `before` to `after` (the same: it is granted already)."""

    kind = "grant"
    system: System
    device: str
    name: str  # how people call the user
    uid: int
    what: str  # which device it is
    memory: int  # MiB, for the text
    table: str  # of the user in the policy
    before: str | None
    after: str | None

    @property
    def text(self) -> str:
        """What is done."""
        memory = f", {self.memory} MiB" if self.needed() else ""
        return f"let user {self.name} (uid {self.uid}) lease {self.device} ({self.what}){memory}: {POLICY}"

    def needed(self) -> bool:
        """Whether the policy changes."""
        return self.after != self.before

    def record(self) -> Record:
        """The policy, before and after."""
        return {
            "kind": self.kind, "device": self.device, "user": self.table, "before": self.before, "after": self.after,
        }  # fmt: skip

    def do(self) -> None:
        """Write the policy."""
        self.system.write_file(POLICY, self.after or "", 0o644)

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"take {record['device']} from {record['user']} in {POLICY}"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Take the device out of the policy. A file that somebody edited meanwhile stays."""
        now = system.text(POLICY)
        if now == record["before"] or now is None:
            return ""
        if now == record["after"]:
            left, text = record["before"] is not None, record["before"]
        else:
            tables = grants.parse(now)
            if tables is None:
                user, device = record["user"], record["device"]
                return f"{POLICY} was edited and stays; {device} of [user.{user}] is yours to remove"
            tables = grants.remove(tables, record["user"], record["device"])
            left, text = bool(tables), grants.render(tables)
        if left:
            system.write_file(POLICY, text, 0o644)
        else:
            system.remove_file(POLICY)
        return ""


def grant(system: System, device: str, name: str, uid: int, what: str, memory: int | None) -> Grant:
    """The step; `memory` in MiB (None: as it is). Raises Refusal when somebody edited the policy."""
    now = system.text(POLICY)
    missing = not grants.granted(now, uid, device, what, memory)
    tables = grants.parse(now)
    if missing and tables is None:
        raise Refusal(
            f'{POLICY} was edited, so it is yours: add "{device} {what}" to devices of [user.{uid}]'
            + (f", and memory_mib = {memory}" if memory else "")
        )
    added = grants.add(tables or {}, uid, name, device, what, memory)
    after = grants.render(added) if missing else now
    return Grant(system, device, name, uid, what, memory or 256, grants.table_of(added, uid), now, after)


@dataclass(frozen=True)
class Bind(Step):
    """Give the device to vfio-pci. The binder's entry says that setup did it, so setup's journal has no record."""

    kind = "bind"
    journaled = False
    system: System
    device: PciDevice
    down: bool
    other: bool

    @property
    def _command(self) -> list[str]:
        options = ["--down"] * self.down + ["--other"] * self.other
        return [LAUNCHER, "bind", *options, "--by", SETUP, self.device.address]

    @property
    def text(self) -> str:
        """What is done."""
        return f"bind: {' '.join(self._command)}"

    def needed(self) -> bool:
        """Whether vfio-pci has it not, or by somebody who wrote no entry."""
        return self.device.driver != VFIO_PCI or self.device.address not in bound(self.system).addresses()

    def record(self) -> Record:
        """As it is made of the entry."""
        return bind_record(self.device.address)

    def do(self) -> None:
        """Bind it."""
        self.system.run([LAUNCHER, "recover"])
        self.system.run(self._command)
        if self.device.driver != VFIO_PCI:
            raise SetupError(f"{self.device.address}: its driver is {self.device.driver or 'none'} after the bind")

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"give {record['device']} back to its driver, with all that was set at its interface"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Give it back, wherever the bind ended; returns what is not as it was before."""
        address, entries = record["device"], bound(system)
        if address not in entries.addresses():  # never bound, or the machine was started again since
            return ""
        said = system.run([LAUNCHER, "recover"])
        if address in entries.addresses():
            said += system.run([LAUNCHER, "unbind", address])
        return "; ".join(line for line in said.splitlines() if "not as it was before" in line)
