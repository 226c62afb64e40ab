"""Steps that change the running kernel: the module vfio-pci, and hugepages. A restart undoes them, too."""

from dataclasses import dataclass

from ixy_vfio_helper.kernel import VFIO_PCI
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup import machine
from ixy_vfio_setup.journal import Journal, Record
from ixy_vfio_setup.step import Step
from ixy_vfio_setup.system import SetupError, System

HUGEPAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB"
TOTAL = f"{HUGEPAGES}/nr_hugepages"


@dataclass(frozen=True)
class Module(Step):
    """Load vfio-pci."""

    kind = "module"
    system: System

    @property
    def text(self) -> str:
        """What is done."""
        return f"load module {VFIO_PCI}"

    def needed(self) -> bool:
        """Whether it is neither loaded nor built in."""
        return not machine.has_vfio_pci(self.system)

    def record(self) -> Record:
        """Its name, and since when."""
        return {"kind": self.kind, "device": "", "name": VFIO_PCI, "boot": self.system.boot}

    def do(self) -> None:
        """Load it."""
        self.system.run(["modprobe", VFIO_PCI])
        if not machine.has_vfio_pci(self.system):
            raise SetupError(f"modprobe {VFIO_PCI} did nothing; `modprobe --showconfig | grep vfio` may say why")

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"unload module {record['name']}, unless somebody else uses it"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Unload it, if the machine was not started again since."""
        name = record["name"]
        if record["boot"] != system.boot or not system.at(f"/sys/bus/pci/drivers/{name}").is_dir():
            return ""
        try:
            system.run(["modprobe", "--remove", name])
        except SetupError as error:
            return f"module {name} stays loaded, somebody else uses it ({error})"
        return ""


@dataclass(frozen=True)
class Hugepages(Step):
    """Reserve as many hugepages of 2 MiB as are lacking. `by_default`: nobody said how many should be free."""

    kind = "hugepages"
    system: System
    journal: Journal
    wanted: int
    by_default: bool
    before: int
    lacking: int

    @property
    def text(self) -> str:
        """What is done."""
        if not self.lacking:
            return f"reserve hugepages of 2 MiB ({self.wanted} wanted)"
        memory = f"{self.lacking * 2} MiB of memory; {self.wanted} wanted"
        return f"reserve {self.lacking} more hugepages of 2 MiB ({memory})"

    def needed(self) -> bool:
        """Whether some are lacking. Those that an earlier setup reserved may be in use by leases."""
        mine = [record for record in self.journal.records if record["kind"] == self.kind]
        mine = [record for record in mine if record["boot"] == self.system.boot]
        done = any(self.before >= record["before"] + record["added"] for record in mine)
        return self.system.at(TOTAL).exists() and self.lacking > 0 and not (done and self.by_default)

    def record(self) -> Record:
        """How many there were, and how many come."""
        return {
            "kind": self.kind, "device": "", "boot": self.system.boot, "before": self.before, "added": self.lacking,
        }  # fmt: skip

    def do(self) -> None:
        """Reserve them. The kernel may give fewer, which `_finish` tells."""
        self.system.set_attribute(TOTAL, str(self.before + self.lacking))

    @staticmethod
    def title(record: Record) -> str:
        """What undoing it means."""
        return f"give {record['added']} hugepages back"

    @staticmethod
    def undo(system: System, record: Record) -> str:
        """Give them back, if the machine was not started again since; never more than are there."""
        if record["boot"] == system.boot:
            left = max(system.number(TOTAL) - record["added"], record["before"])
            system.set_attribute(TOTAL, str(min(left, system.number(TOTAL))))
        return ""


def hugepages(system: System, journal: Journal, wanted: int, by_default: bool) -> Hugepages:
    """The step. Raises Refusal when the machine has not the memory."""
    lacking = max(0, wanted - system.number(f"{HUGEPAGES}/free_hugepages"))
    step = Hugepages(system, journal, wanted, by_default, system.number(TOTAL), lacking)
    if step.needed() and (why := machine.too_many(system, lacking)):
        raise Refusal(why)
    return step
