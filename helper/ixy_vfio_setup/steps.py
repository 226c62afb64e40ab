"""The steps of a setup. Each knows whether it is needed, what its undo needs to know, and how it is done."""

import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ixy_vfio_helper.kernel import VFIO_PCI, PciDevice
from ixy_vfio_helper.monitor import Refusal

from ixy_vfio_setup import grants, machine
from ixy_vfio_setup.journal import Journal, Record
from ixy_vfio_setup.system import SetupError, System
from ixy_vfio_setup.undo import HUGEPAGES, LAUNCHER, LIBRARY, POLICY, SOCKET, UNITS

SYSTEMD = "/etc/systemd/system"
PACKAGES = ("ixy_vfio_helper", "ixy_vfio_setup")  # what the helper's commands run


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `record` is asked right before it is taken, and is in the journal before `do` is called."""

    text: str
    needed: Callable[[], bool]
    record: Callable[[], Record]
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be set up."""

    device: PciDevice
    user: str  # how people call them
    uid: int
    what: str  # which device it is
    memory: int | None  # MiB of all leases of the user
    hugepages: int | None  # of 2 MiB
    other: bool  # also a NIC that no driver here knows
    start: bool  # start the helper also without systemd
    down: bool = False  # also if the interface is up

    @property
    def wanted(self) -> int:
        """Hugepages that should be free: by default as many as the user may have memory."""
        return self.hugepages if self.hugepages is not None else (self.memory or 256) // 2


def steps(system: System, journal: Journal, tree: Path, python: str, request: Request) -> Iterator[Step]:
    """All steps, in their order. The NIC itself is taken last."""
    yield _run(journal)
    yield _module(system)
    yield _hugepages(system, journal, request)
    yield from _install(system, tree, python)
    yield from _grant(system, request)
    yield from _serve(system, tree, request)
    yield _bind(system, request)


def _run(journal: Journal) -> Step:
    return Step(
        "let the helper keep its locks, socket and journal in /run/ixy_vfio",
        lambda: not any(record["kind"] == "run" for record in journal.records),
        lambda: {"kind": "run", "device": ""},
        lambda: None,
    )


def _module(system: System) -> Step:
    return Step(
        f"load module {VFIO_PCI}",
        lambda: not machine.has_vfio_pci(system),
        lambda: {"kind": "module", "device": "", "name": VFIO_PCI, "boot": system.boot},
        lambda: _load(system),
    )


def _load(system: System) -> None:
    system.run(["modprobe", VFIO_PCI])
    if not machine.has_vfio_pci(system):
        raise SetupError(f"modprobe {VFIO_PCI} did nothing; `modprobe --showconfig | grep vfio` may say why")


def _hugepages(system: System, journal: Journal, request: Request) -> Step:
    name = f"{HUGEPAGES}/nr_hugepages"
    wanted = request.wanted
    before = system.number(name)
    lacking = max(0, wanted - system.number(f"{HUGEPAGES}/free_hugepages"))

    def needed() -> bool:
        mine = [record for record in journal.records if record["kind"] == "hugepages" and record["boot"] == system.boot]
        done = any(before >= record["before"] + record["added"] for record in mine)
        return system.at(name).exists() and lacking > 0 and not (done and request.hugepages is None)

    if needed() and (why := machine.too_many(system, lacking)):
        raise Refusal(why)
    return Step(
        f"reserve {lacking} more hugepages of 2 MiB ({lacking * 2} MiB of memory; {wanted} wanted)"
        if lacking
        else f"reserve hugepages of 2 MiB ({wanted} wanted)",
        needed,
        lambda: {"kind": "hugepages", "device": "", "boot": system.boot, "before": before, "added": lacking},
        lambda: system.set_attribute(name, str(before + lacking)),
    )


def _directory(system: System, path: str) -> Step:
    return Step(
        f"make directory {path}",
        lambda: not system.at(path).is_dir(),
        lambda: {"kind": "directory", "device": "", "path": path},
        lambda: system.make_directory(path),
    )


def _file(system: System, path: str, text: str, mode: int) -> Step:
    def needed() -> bool:
        if system.text(path) != text:
            return True
        found = system.at(path).lstat()
        return (found.st_uid, stat.S_IMODE(found.st_mode)) != (system.owner, mode)

    def record() -> Record:
        before = system.text(path)
        had = mode if before is None else stat.S_IMODE(system.at(path).stat().st_mode)
        return {"kind": "file", "device": "", "path": path, "before": before, "mode": had}

    return Step(f"write {path} (mode {mode:o})", needed, record, lambda: system.write_file(path, text, mode))


def launcher(python: str) -> str:
    """The command that people run: nothing of the environment, of site-packages or of a cache comes in."""
    return f'#!/bin/sh\nexec {python} -I -S -B {LIBRARY}/ixy_vfio_helper "$@"\n'


def _install(system: System, tree: Path, python: str) -> Iterator[Step]:
    yield _directory(system, LIBRARY)
    for package in PACKAGES:
        yield _directory(system, f"{LIBRARY}/{package}")
        for source in sorted((tree / "helper" / package).glob("*.py")):
            yield _file(system, f"{LIBRARY}/{package}/{source.name}", source.read_text(), 0o644)
    yield _file(system, LAUNCHER, launcher(python), 0o755)


def _grant(system: System, request: Request) -> Iterator[Step]:
    address, directory = request.device.address, POLICY.rpartition("/")[0]
    now, what = system.text(POLICY), request.what
    missing = not grants.granted(now, request.uid, address, what, request.memory)
    tables = grants.parse(now)
    if missing and tables is None:
        raise Refusal(
            f'{POLICY} was edited, so it is yours: add "{address} {what}" to devices of [user.{request.uid}]'
            + (f", and memory_mib = {request.memory}" if request.memory else "")
        )
    added = grants.add(tables or {}, request.uid, request.user, address, what, request.memory)
    after = grants.render(added) if missing else now
    memory = f", {request.memory or 256} MiB" if missing else ""
    yield _directory(system, directory)
    yield Step(
        f"let user {request.user} (uid {request.uid}) lease {address} ({what}){memory}: {POLICY}",
        lambda: missing,
        lambda: {
            "kind": "grant", "device": address, "user": grants.table_of(added, request.uid),
            "before": now, "after": after,
        },
        lambda: system.write_file(POLICY, after or "", 0o644),
    )  # fmt: skip


def _serve(system: System, tree: Path, request: Request) -> Iterator[Step]:
    if machine.has_systemd(system):
        units = {f"{SYSTEMD}/{name}": (tree / "scripts/systemd" / name).read_text() for name in UNITS}
        files = [_file(system, path, text, 0o644) for path, text in units.items()]
        fresh = any(step.needed() for step in files)
        if fresh:  # its undo comes after the undo of the files
            yield Step(
                "let systemd forget its units afterwards, when this is undone",
                lambda: True,
                lambda: {"kind": "reload", "device": ""},
                lambda: None,
            )
        yield from files
        yield Step(
            f"systemctl daemon-reload; systemctl enable --now {UNITS[0]}",
            lambda: fresh or not system.unit_active(UNITS[0]),
            lambda: {"kind": "enable", "device": ""},
            lambda: _enable(system),
        )
    elif request.start:
        yield Step(
            f"start {LAUNCHER} serve in the background (log: /run/ixy_vfio/helper.log)",
            lambda: not system.listener(SOCKET),
            lambda: {"kind": "background", "device": ""},
            lambda: _background(system),
        )


def _enable(system: System) -> None:
    system.run(["systemctl", "daemon-reload"])
    system.run(["systemctl", "enable", "--now", UNITS[0]])


def _background(system: System) -> None:
    system.run([LAUNCHER, "recover"])  # makes its directories
    system.start([LAUNCHER, "serve"], "/run/ixy_vfio/helper.log", SOCKET)


def _bind(system: System, request: Request) -> Step:
    device = request.device
    entry = f"/run/ixy_vfio/bound/{device.address}.json"
    options = ["--down"] * request.down + ["--other"] * request.other

    def do() -> None:
        system.run([LAUNCHER, "recover"])
        system.run([LAUNCHER, "bind", *options, device.address])
        if device.driver != VFIO_PCI:
            raise SetupError(f"{device.address}: its driver is {device.driver or 'none'} after the bind")

    return Step(
        f"bind: {' '.join([LAUNCHER, 'bind', *options, device.address])}",
        lambda: device.driver != VFIO_PCI or system.text(entry) is None,
        lambda: {"kind": "bind", "device": device.address},
        do,
    )
