"""The kernel's log from now on, as far as it says something about one device that ends a lease.

The kernel logs names that anybody chooses, too (`COMM[pid]: segfault`). So a record counts only if it is one of the
messages below from its first byte to its last. They are those of Linux 5.10 to 7.2: drivers/iommu/intel/dmar.c,
drivers/iommu/amd/iommu.c, drivers/vfio/pci/vfio_pci_core.c.

A record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg): `level,number,time,flags[,more];text` and a newline. Lines
that begin with a space may follow: the device that the kernel logged about. They are not part of the text. A level
below 8 is the kernel's own (facility 0), which no process can write.
"""

import os
import re
from collections.abc import Sequence

WANTED = "the kernel wants the device back"
_RECORD = r"[0-7],\d+,\d+,-(?:,[^;\n]*)?;(?:%s)\n(?: [^\n]*\n)*"
# Linux 5.10 says a PASID behind the device, and writes some numbers without 0x.
_VTD = (
    r"DMAR: \[(?:INTR-REMAP|DMA (?:Read|Write)(?: NO_PASID| PASID 0x[0-9a-f]+)?)\] Request device \[%s\]"
    r"(?: PASID [0-9a-f]+)? fault (?:addr|index) (?:0x)?[0-9a-f]+ \[fault reason (?:0x)?[0-9a-f]+\] [\w :/=-]+"
)
# IO_PAGE_FAULT, RMP_PAGE_FAULT, INVALID_DEVICE_REQUEST and all others that name a device.
_AMD = r"AMD-Vi: Event logged \[[A-Z_]+%s(?:,? [a-z_]+=0x[0-9a-f]+)+\]"
_VFIO = (
    r"vfio-pci %s: (?:Relaying device request to user \(#\d+\)"
    r"|No device request channel registered, blocked until released by user)"
)


class KernelLog:
    """What the kernel logs about a device from now on. `twins`: what has the same number in other PCI segments.

    Before Linux 7 VT-d logs no segment. With twins, such a line may be about any of them: it counts for none. AMD-Vi
    logged none as long as it knew segment 0 alone.
    """

    def __init__(self, address: str, twins: Sequence[str] = (), path: str = "/dev/kmsg") -> None:
        segment, _, number = address.partition(":")
        with_segment, number = f"{segment}:", re.escape(number)
        maybe = f"(?:{with_segment})?"
        vtd = _VTD % ((with_segment if twins else maybe) + number)
        amd = r"(?:iommu ivhd\d+: )?" + _AMD % f" device={maybe if segment == '0000' else with_segment}{number}"
        own = f"vfio-pci {re.escape(address)}: " + _AMD % ""
        self._fault = re.compile(_RECORD % f"{vtd}|{amd}|{own}", re.ASCII)
        self._wanted = re.compile(_RECORD % (_VFIO % re.escape(address)), re.ASCII)
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.lseek(self.fd, 0, os.SEEK_END)

    def trouble(self) -> str | None:
        """Why the lease must end, by what was logged since the last call."""
        while True:
            try:
                record = os.read(self.fd, 8192).decode("utf-8", "replace")
            except BlockingIOError:
                return None
            except BrokenPipeError:  # records were overwritten before they were read
                continue
            if self._fault.fullmatch(record):
                return "its DMA was blocked: " + record.partition(";")[2].partition("\n")[0]
            if self._wanted.fullmatch(record):
                return WANTED
