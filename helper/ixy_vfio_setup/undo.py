"""The way back: for each kind of record a function that undoes the step, whether it was taken, half taken, or not.

Each returns what people should know, or "".
"""

from collections.abc import Callable

from ixy_vfio_helper import policy

from ixy_vfio_setup import grants
from ixy_vfio_setup.journal import Record
from ixy_vfio_setup.system import SetupError, System

LIBRARY = "/usr/local/lib/ixy_vfio"
LAUNCHER = "/usr/local/sbin/ixy-vfio-helper"
SOCKET = "/run/ixy_vfio/helper.sock"
POLICY = str(policy.PATH)
HUGEPAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB"
UNITS = ("ixy-vfio-helper.socket", "ixy-vfio-helper.service")


def _module(system: System, record: Record) -> str:
    name = record["name"]
    if record["boot"] != system.boot or not system.at(f"/sys/bus/pci/drivers/{name}").is_dir():
        return ""
    try:
        system.run(["modprobe", "--remove", name])
    except SetupError as error:
        return f"module {name} stays loaded, somebody else uses it ({error})"
    return ""


def _hugepages(system: System, record: Record) -> str:
    if record["boot"] == system.boot:
        name = f"{HUGEPAGES}/nr_hugepages"
        left = max(system.number(name) - record["added"], record["before"])
        system.set_attribute(name, str(min(left, system.number(name))))
    return ""


def _directory(system: System, record: Record) -> str:
    return "" if system.remove_directory(record["path"]) else f"{record['path']} stays: there is something else in it"


def _file(system: System, record: Record) -> str:
    if record["before"] is None:
        system.remove_file(record["path"])
    else:
        system.write_file(record["path"], record["before"], record["mode"])
    return ""


def _grant(system: System, record: Record) -> str:
    now = system.text(POLICY)
    if now == record["before"] or now is None:
        return ""
    if now == record["after"]:
        left, text = record["before"] is not None, record["before"]
    else:
        tables = grants.parse(now)
        if tables is None:
            return f"{POLICY} was edited and stays; {record['device']} of [user.{record['user']}] is yours to remove"
        tables = grants.remove(tables, record["user"], record["device"])
        left, text = bool(tables), grants.render(tables)
    if left:
        system.write_file(POLICY, text, 0o644)
    else:
        system.remove_file(POLICY)
    return ""


def _bind(system: System, record: Record) -> str:
    address = record["device"]
    journal = f"/run/ixy_vfio/bound/{address}.json"
    if system.text(journal) is None:  # never bound, or the machine was started again since
        return ""
    said = system.run([LAUNCHER, "recover"])
    if system.text(journal) is not None:
        said += system.run([LAUNCHER, "unbind", address])
    return "; ".join(line for line in said.splitlines() if "not as it was before" in line)


def _reload(system: System, record: Record) -> str:
    system.run(["systemctl", "daemon-reload"])
    return ""


def _enable(system: System, record: Record) -> str:
    if system.at(f"/etc/systemd/system/{UNITS[0]}").exists():
        system.run(["systemctl", "disable", "--now", *UNITS])
    return ""


def _background(system: System, record: Record) -> str:
    """End the helper that listens: the socket itself tells whose it is."""
    pid = system.listener(SOCKET)
    if pid and LIBRARY not in (system.text(f"/proc/{pid}/cmdline") or ""):
        return f"process {pid} listens at {SOCKET} and was not started by setup: it stays"
    if pid:
        system.end(pid)
    return ""


def _run(system: System, record: Record) -> str:
    if any(system.at("/run/ixy_vfio/bound").glob("*.json")):
        return "/run/ixy_vfio stays: a device is bound that setup did not bind"
    system.remove_tree("/run/ixy_vfio")
    return ""


UNDO: dict[str, Callable[[System, Record], str]] = {
    "module": _module,
    "hugepages": _hugepages,
    "directory": _directory,
    "file": _file,
    "grant": _grant,
    "bind": _bind,
    "reload": _reload,
    "enable": _enable,
    "background": _background,
    "run": _run,
}


def title(record: Record) -> str:
    """What undoing a record means, in words."""
    kind, device = record["kind"], record["device"]
    return {
        "module": f"unload module {record.get('name')}, unless somebody else uses it",
        "hugepages": f"give {record.get('added')} hugepages back",
        "directory": f"remove {record.get('path')}",
        "file": f"{'remove' if record.get('before') is None else 'put back'} {record.get('path')}",
        "grant": f"take {device} from {record.get('user')} in {POLICY}",
        "bind": f"give {device} back to its driver, with all that was set at its interface",
        "reload": "systemctl daemon-reload",
        "enable": f"systemctl disable --now {' '.join(UNITS)}",
        "background": "end the helper that runs in the background",
        "run": "remove /run/ixy_vfio",
    }[kind]
