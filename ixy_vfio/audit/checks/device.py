"""One device: its group, the bridges above it, and what it can do."""

from ixy_vfio.audit.config import ACS_BITS, ACS_DIRECT, EXT_ACS, EXT_ATS, EXT_PASID, EXT_PRI
from ixy_vfio.audit.host import DEVICES, Host, PciDevice
from ixy_vfio.audit.model import Findings, Severity, device_check, fail, passed, skip, warn
from ixy_vfio.audit.processes import blind
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.rights import replaceable
from ixy_vfio.audit.sessions import sessions_of, strays_of

EEPROM_RECORDS = "/var/lib/ixy_vfio/eeprom"  # ADDRESS.first, ADDRESS.last: digests; written by audit/eeprom.py
HARMLESS_DRIVERS = ("pci-stub", "pcieport")  # linux/drivers/vfio/group.c: vfio_dev_driver_allowed


def _group(device: PciDevice) -> str:
    return f"/sys/kernel/iommu_groups/{device.group}/devices"


@device_check("device.iommu", Severity.HIGH)
def behind_iommu(host: Host, device: PciDevice) -> Findings:
    """The device is behind an IOMMU.

    Looks for the device's IOMMU group, its name and the type of its default domain.

    Holds unless: the device has no group (the firmware's table, or a machine that exempts a bus: QEMU's bypass_iommu);
    the group is one that VFIO's no-IOMMU mode made up. A group in passthrough is a warning: VFIO puts the device into a
    domain of its own, but before and afterwards it reaches all memory. virtio devices may go past an IOMMU that is
    there: see device.virtio; so may devices that translate by themselves: device.ats.

    Why: a device without a group is not translated: an IOMMU in the machine does not help. VFIO would offer its
    no-IOMMU mode at most.

    Fix: see iommu.present. If the IOMMU is on and other devices have groups, the firmware's table leaves this device
    out: a bug of the firmware.
    """
    path = f"{DEVICES}/{device.address}/iommu_group"
    if device.group is None:
        yield fail("it has no IOMMU group", Reading(path, None))
    elif host.is_noiommu(device.group):
        yield fail(f"group {device.group} is of VFIO's no-IOMMU mode", Reading(f"{path}/name", "vfio-noiommu"))
    elif "identity" in (kind := host.group_type(device.group)):
        yield warn(f"group {device.group} is in passthrough while VFIO does not have the device", kind)
    else:
        yield passed(f"group {device.group}", Reading(path, device.group))


@device_check("device.group", Severity.HIGH)
def group(host: Host, device: PciDevice) -> Findings:
    """The group is the device's alone, and viable.

    Looks at the members of the group and their drivers. A group is viable when no member is driven by the kernel, but
    for bridges.

    Holds unless: another device is in the group, of any bus; it, or a bridge, has a driver that is neither of VFIO nor
    harmless (Linux accepts pci-stub, and pcieport for bridges). A UIO driver is the kernel's here.

    Why: members of a group can reach each other past the IOMMU, and share one domain. A foreign driver in the group
    makes VFIO refuse it; two users of one group can attack each other.

    Fix: put the card into another slot, turn on ACS in the firmware's setup, or bind the others to vfio-pci too if
    nobody needs them.
    """
    if device.group is None:
        yield skip("it has no IOMMU group")
        return
    members = [one for one in host.group(device.group) if one.address != device.address]
    others = [one for one in members if not one.is_bridge]
    foreign = [
        str(one) for one in members if one.driver and "vfio" not in one.driver and one.driver not in HARMLESS_DRIVERS
    ]
    evidence = host.names(_group(device))
    foreign += [
        f"{name}, which is no PCI device" for name in (evidence.value or "").split() if name not in host.devices
    ]
    if foreign:
        yield fail(f"group {device.group} is not viable: {'; '.join(foreign)}", evidence)
    elif others:
        yield warn(f"shares group {device.group} with {'; '.join(map(str, others))}", evidence)
    else:
        yield passed(f"alone in group {device.group}", evidence)


@device_check("device.acs", Severity.HIGH, needs_root=True)
def acs(host: Host, device: PciDevice) -> Findings:
    """Every bridge above redirects requests to the IOMMU (ACS).

    Looks at the Access Control Services of every bridge above the device (root): source validation, request and
    completion redirect, upstream forwarding. A bridge without ACS is accepted where the kernel vouches for it (a
    quirk: it gave the device a group without the bridge).

    Holds unless: one bridge on the way lacks one of these, has it and does not do it, or lets translated requests pass
    directly (direct translated P2P). SKIP if a bridge's configuration is not shown, or the bridge itself.

    Why: a switch may pass a request straight to a sibling, which then never meets the IOMMU.

    Fix: turn ACS on in the firmware's setup; put the card into a slot of the processor; do not boot with
    pci=disable_acs_redir=.
    """
    if not device.bridges:
        yield passed("no bridge is above it")
        return
    members = {one.address for one in host.group(device.group)} if device.group else set()
    readings, good = [], True
    for address in device.bridges:
        bridge = host.devices.get(address)
        if bridge is None:
            yield skip(f"bridge {address} is not shown")
            good = False
            continue
        config = host.config_space(bridge)
        at = config.extended(EXT_ACS)
        control = config.word(at + 6) if at else 0
        capable = config.word(at + 4) if at else 0
        missing = [text for bit, text in ACS_BITS.items() if not control & bit]
        readings.append(Reading(config.path, f"ACS control {control:#06x}" if at else "no ACS"))
        if at is None and config.port_type == "upstream port":
            continue  # redirection is the matter of the ports below and above it
        if control & ACS_DIRECT:
            good = False
            yield fail(f"bridge {address} lets translated requests pass directly", readings[-1])
        elif missing and (at is not None or address in members):
            good = False
            lacks = "has no ACS" if at is None else f"does not do {', '.join(missing)}"
            cannot = " (and cannot)" if at is not None and any(not capable & bit for bit in ACS_BITS) else ""
            yield fail(f"bridge {address} {lacks}{cannot}", readings[-1])
    if good:
        yield passed(f"{', '.join(device.bridges)}", *readings)


@device_check("device.reserved", Severity.MEDIUM)
def reserved(host: Host, device: PciDevice) -> Findings:
    """The firmware reserves no memory for the device.

    Looks at the group's reserved regions for type `direct` (RMRR of Intel, unity maps of AMD).

    Holds unless: the group has a region of type direct; direct-relaxable (given up for VFIO) is a warning. SKIP if the
    kernel does not show the regions.

    Why: such memory must stay reachable for the device, in every domain: firmware and device share it. Linux refuses
    the device to VFIO for that; servers of HPE are known for it, for all slots.

    Fix: turn it off in the firmware's setup (HPE: "shared memory features", by conrep or hp-rcu), per slot. Do not
    use a kernel that was patched to ignore RMRRs.
    """
    if device.group is None:
        yield skip("it has no IOMMU group")
        return
    reading = host.read(f"/sys/kernel/iommu_groups/{device.group}/reserved_regions")
    regions = [line.split() for line in (reading.value or "").splitlines()]
    direct = [f"{line[0]}-{line[1]}" for line in regions if line[-1] == "direct"]
    relaxed = [f"{line[0]}-{line[1]}" for line in regions if line[-1] == "direct-relaxable"]
    if reading.value is None:
        yield skip("the group's regions are not shown", reading)
    elif direct:
        yield fail(f"direct: {', '.join(direct)}; VFIO refuses the device", reading)
    elif relaxed:
        yield warn(f"direct, but given up for VFIO: {', '.join(relaxed)}", reading)
    else:
        yield passed("none", reading)


@device_check("device.ats", Severity.HIGH, needs_root=True)
def ats(host: Host, device: PciDevice) -> Findings:
    """ATS, PRI and PASID are off.

    Looks whether Address Translation Services, Page Request Interface or PASID are enabled in the device (root); for a
    virtual function also in its physical one, whose PRI and PASID are in common.

    Holds unless: one of them is on now. Linux turns ATS on when a device gets a domain, where device and IOMMU can, and
    pci=noats is not there: so of a device that can, and that nobody uses, SKIP.

    Why: with ATS a device marks requests as translated, and the IOMMU lets them pass unseen; a device with hostile
    firmware reaches all memory that way (Thunderclap, NDSS 2019).

    Fix: boot with pci=noats. Bridges with ACS translation blocking stop such requests too.
    """
    config = host.config_space(device)
    enabled, able = [], False
    for one in filter(None, (device, _physical(host, device))):
        space = host.config_space(one)
        for name, number, offset, bit in (
            ("ATS", EXT_ATS, 6, 0x8000), ("PRI", EXT_PRI, 4, 1), ("PASID", EXT_PASID, 6, 1),
        ):  # fmt: skip
            at = space.extended(number)
            able |= at is not None and name == "ATS" and one is device
            if at is not None and space.word(at + offset) & bit and (one is device or name != "ATS"):
                enabled.append(Reading(space.path, f"{name} control {space.word(at + offset):#06x}"))
    if enabled:
        names = ", ".join((reading.value or "").split()[0] for reading in enabled)
        yield fail(f"on: {names}", *enabled)
    elif able and not host.has_option("pci", "noats") and not sessions_of(host).of(device.address):
        yield skip("off while nobody uses it; Linux may turn ATS on then", Reading(config.path, "it can do ATS"))
    else:
        yield passed("off or not there", Reading(config.path, f"{len(config.data)} bytes"))


@device_check("device.reset", Severity.MEDIUM)
def reset(host: Host, device: PciDevice) -> Findings:
    """The device can be reset on its own.

    Looks at reset_method, which lists what the kernel can use (Linux 5.15; before that, whether there is `reset`).

    Holds unless: there is none, or the first that the kernel tries is that of the bus.

    Why: a reset is what ends DMA and wipes the state of one user before the next; a bus reset hits all devices below
    the bridge.

    Fix: none for this device. Do not give it to users who do not trust each other.
    """
    reading = host.read(f"{DEVICES}/{device.address}/reset_method")
    methods = (reading.value or "").split()
    if not methods and host.version >= (5, 15):
        yield fail("it has no usable reset", reading)
    elif not methods:
        node, reading = host.node(f"{DEVICES}/{device.address}/reset")
        yield passed("it has a reset", reading) if node else fail("it has no usable reset", reading)
    elif methods[0] in ("bus", "cxl_bus"):
        yield warn("only by resetting its bus" if len(methods) == 1 else "first by resetting its bus", reading)
    else:
        yield passed(", ".join(methods), reading)


@device_check("device.bus_master", Severity.HIGH, needs_root=True)
def bus_master(host: Host, device: PciDevice) -> Findings:
    """Bus mastering is off while nobody uses the device.

    A device that waits for its next user, bound to a driver for user space or to none, and open nowhere (root), has bus
    mastering off.

    Holds unless: it is on, and no process has the device open (see device.holders for who counts). A device that the
    kernel drives, and a bridge, are in use. SKIP if it is on and not everything is seen.

    Why: it may still be running the rings of its last user, and write into memory that is somebody else's by now.
    This is what is left when a driver was killed while another process kept its device open.

    Fix: unbind and bind the device again, or `setpci -s ADDRESS COMMAND=0:4`.
    """
    if device.is_bridge or (device.driver and not device.in_user_space):
        yield skip(f"driven by {device.driver or 'the kernel'}")
        return
    config = host.config_space(device)
    command = Reading(config.path, f"COMMAND {config.word(4):#06x}")
    if not config.bus_master:
        yield passed("off", command)
    elif sessions_of(host).of(device.address) or strays_of(host, device.address):
        yield passed("on, in use", command)
    elif blind(host):
        yield skip(f"on; whether anybody has the device open is {blind(host)}", command)
    else:
        yield fail("on, and nobody has the device open", command)


@device_check("device.sriov", Severity.MEDIUM)
def sriov(host: Host, device: PciDevice) -> Findings:
    """No virtual function hangs on a physical one that a program drives.

    Looks at sriov_numvfs, and at the virtual functions that are there, of a physical function that is bound to a driver
    for user space; of a virtual function, at the driver of its physical one.

    Holds unless: a physical function with virtual ones is bound to a driver for user space, whichever of them is looked
    at. SKIP if the physical function is not shown.

    Why: who drives the physical function resets, listens to and configures all of its virtual functions, whoever has
    them.

    Fix: write 0 into sriov_numvfs before the device is given away; give away virtual functions, and leave the
    physical one to the kernel (level L3).
    """
    path = f"{DEVICES}/{device.address}"
    reading = host.read(f"{path}/sriov_numvfs")
    made = [name for name in host.system.names(path) if name.startswith("virtfn")]
    count = max(int(reading.value or 0), len(made))
    if host.system.target(f"{path}/physfn") is not None:
        above = _physical(host, device)
        if above is None:
            yield skip(
                "its physical function is not shown", Reading(f"{path}/physfn", host.system.target(f"{path}/physfn"))
            )
        elif above.in_user_space:
            driver = Reading(f"{DEVICES}/{above.address}/driver", above.driver)
            yield fail(f"a virtual function of {above}, which a program drives", driver)
        else:
            yield passed(f"a virtual function of {above}")
    elif count and device.in_user_space:
        yield fail(f"{count} virtual functions on a physical function that a program drives", reading)
    else:
        yield passed(f"{count} virtual functions", reading)


def _physical(host: Host, device: PciDevice) -> PciDevice | None:
    """The physical function of a virtual one."""
    target = host.system.target(f"{DEVICES}/{device.address}/physfn")
    return None if target is None else host.devices.get(target.rpartition("/")[2])


@device_check("device.eeprom", Severity.HIGH)
def eeprom(host: Host, device: PciDevice) -> Findings:
    """The device's EEPROM was the same at both records.

    Compares two digests in /var/lib/ixy_vfio/eeprom, ADDRESS.first and ADDRESS.last. `ixy-vfio audit DEVICE
    --record-eeprom` (root) writes them: the first when there is none, else the last. It reads what the kernel's driver
    shows of the EEPROM, as `ethtool -e` does; so run it before the device is bound to vfio-pci, and after it was given
    back. Nothing is recorded while the device is bound: the helper maps no registers, and whoever drives the device is
    the one that is not to be believed. Flash with an option ROM that the driver does not show is not seen.

    Holds unless: the digests differ; others than root can write them. It says nothing of what happened since the last
    record: so record anew when the device was given back. SKIP without two records.

    Why: who holds a physical function of an 82599 can write its EEPROM and option ROM. That outlives every reset, and
    a changed option ROM runs in the firmware at the next boot.

    Fix: do not use the device. Write the vendor's image back (on a machine you trust) and look who had the last
    lease. After an update that you made yourself, remove both files and record anew.
    """
    first = host.read(f"{EEPROM_RECORDS}/{device.address}.first")
    last = host.read(f"{EEPROM_RECORDS}/{device.address}.last")
    loose = [one for reading in (first, last) if reading.value for one in replaceable(host, reading.path)]
    if loose:
        yield fail("others than root can change the digests", *loose)
    elif first.value is None or last.value is None:
        yield skip("not recorded twice; --record-eeprom does", first, last)
    elif first.value != last.value:
        yield fail("changed since it was recorded first", first, last)
    else:
        since = "; a program can drive the device since" if device.in_user_space else ""
        yield passed(f"unchanged{since}", first, last)
