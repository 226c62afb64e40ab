"""The privileged helper: its processes, its unit, its socket, its policy."""

from ixy_vfio.audit import unit as units
from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Severity, fail, host_check, passed, skip, warn
from ixy_vfio.audit.reading import Reading
from ixy_vfio.audit.rights import files_below, programs_of, replaceable
from ixy_vfio.audit.sessions import sessions_of
from ixy_vfio.audit.system import Denied
from ixy_vfio.audit.unit import Unit

SOCKET, POLICY, LAUNCHER = "/run/ixy_vfio/helper.sock", "/etc/ixy_vfio/policy.toml", "/usr/local/sbin/ixy-vfio-helper"
SERVICE, SOCKET_UNIT = "ixy-vfio-helper.service", "ixy-vfio-helper.socket"
ALLOWED = 1 << 34  # CAP_SYSLOG, to read /dev/kmsg: linux/capability.h
NAMES = (  # of the capabilities of Linux, by number
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip
HARMLESS = {
    "NET_BIND_SERVICE", "NET_BROADCAST", "IPC_LOCK", "LEASE", "WAKE_ALARM", "BLOCK_SUSPEND", "SYS_NICE", "SYS_PACCT",
}  # fmt: skip
ON = (  # settings of the unit that must be on
    "NoNewPrivileges", "PrivateTmp", "PrivateMounts", "PrivateNetwork", "ProtectClock", "ProtectHostname",
    "ProtectControlGroups", "ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces", "RestrictRealtime",
    "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute",
)  # fmt: skip
ONE_OF = {  # settings that must have one of these values
    "ProtectSystem": ("strict",), "ProtectHome": ("yes", "true", "on", "1", "read-only", "tmpfs"),
    "ProtectProc": ("invisible", "ptraceable", "noaccess"), "ProcSubset": ("pid",),
    "DevicePolicy": ("closed", "strict"), "SystemCallArchitectures": ("native",),
}  # fmt: skip
ONLY = {  # settings that may list nothing else
    "CapabilityBoundingSet": ("CAP_SYSLOG",), "AmbientCapabilities": (), "RestrictAddressFamilies": ("AF_UNIX", "none"),
    "ReadWritePaths": ("/run/ixy_vfio",),
    "DeviceAllow": ("/dev/vfio/vfio", "char-vfio*", "/dev/iommu", "/dev/kmsg", "rw", "r", "w"),
}  # fmt: skip
MUST_BE_SET = ("CapabilityBoundingSet", "RestrictAddressFamilies")  # unset, these allow everything
DANGEROUS_CALLS = ("@privileged", "@module", "@mount", "@raw-io", "@debug", "@reboot", "@swap", "@clock", "@obsolete")
PACKAGE, BESIDE = "/ixy_vfio_helper", ("/ixy_vfio_setup", "/ixy_vfio_locks")  # its code starts, and imports, these
NOT_HERE = "no helper is installed"


def _names(bits: int) -> list[str]:
    return [NAMES[bit] if bit < len(NAMES) else str(bit) for bit in range(bits.bit_length()) if bits >> bit & 1]


@host_check("helper.capabilities", Severity.MEDIUM, needs=("/proc",))
def capabilities(host: Host) -> Findings:
    """The helper has no capability but CAP_SYSLOG.

    Looks at the capabilities of every thread of the helper's processes: the one that listens, and one for each lease.

    Holds unless: one of them has another: effective, permitted, or to be handed on. Any that is worth root, or the
    kernel (SYS_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, DAC_OVERRIDE and most others), is a failure, those that are
    not are a warning. User id 0 that may gain privileges by starting a program has all of the bounding set. SKIP if no
    helper runs, or it is hidden.

    Why: it is the one process of ours with rights; a hole in it should not be worth all of root.

    Fix: start it by its systemd unit, which bounds them.
    """
    threads = [thread for one in sessions_of(host).helpers for thread in one.threads]
    if not threads:
        yield skip("no helper is running (or it is hidden)")
        return
    good = True
    for one in threads:
        has = one.capabilities & ~ALLOWED
        if one.status.get("NoNewPrivs") != "1":
            has |= int(one.status.get("CapBnd", "0"), 16) & ~ALLOWED
        if not has:
            continue
        good = False
        names = _names(has)
        evidence = [one.fact(key) for key in ("CapEff", "CapPrm", "CapBnd", "NoNewPrivs")]
        told = ", ".join(names) if len(names) < 30 else "all capabilities"
        yield (warn if set(names) <= HARMLESS else fail)(f"{one} has {told}", *evidence)
    if good:
        yield passed("CAP_SYSLOG at most", *(one.fact("CapEff") for one in threads))


@host_check("helper.unit", Severity.LOW, needs=("/proc",))
def unit(host: Host) -> Findings:
    """The helper's systemd unit is hardened, and the helper runs in it.

    Reads ixy-vfio-helper.service as systemd does, with its drop-ins of every place, and compares the settings that
    bound what it can reach with those of the unit that comes with the project. Looks whether the helper that runs is in
    the unit's control group, with no_new_privs and a filter.

    Holds unless: a setting is missing, off by any word (no, false, off, 0), weaker, or taken back by a drop-in or a
    later line; a list allows more (or all but something: ~); ExecStart has full privileges (+, !); the unit stands in a
    place that comes first; the helper runs outside of it, or as an older one was read. SKIP if there is no unit.

    Why: they bound what a taken-over helper can reach.

    Fix: install the unit that comes with the project (scripts/setup); look at `systemd-analyze security
    ixy-vfio-helper`.
    """
    found = units.load(host, SERVICE)
    if found is None:
        yield skip(NOT_HERE if not sessions_of(host).helpers else "it runs without a unit")
        return
    lacks = _weaknesses(found)
    outside = [
        one for one in sessions_of(host).helpers if SERVICE not in (host.read(f"/proc/{one.pid}/cgroup").value or "")
    ]
    threads = [thread for one in sessions_of(host).helpers if one not in outside for thread in one.threads]
    bare = [one for one in threads if one.status.get("NoNewPrivs") != "1" or one.status.get("Seccomp") != "2"]
    if lacks:
        yield warn(f"not hardened: {', '.join(lacks)}", *found.files)
    if outside:
        groups = [host.read(f"/proc/{one.pid}/cgroup") for one in outside]
        yield warn(f"runs outside of its unit: {', '.join(map(str, outside))}", *groups)
    if bare:
        evidence = [one.fact(key) for one in bare for key in ("NoNewPrivs", "Seccomp")]
        yield warn(f"runs without what its unit says: {', '.join(map(str, bare))}", *evidence)
    yield passed("hardened", *found.files)


def _weaknesses(found: Unit) -> list[str]:
    lacks = [key for key in ON if not found.true(key)]
    lacks += [key for key, values in ONE_OF.items() if found.last(key).lower() not in values]
    lacks += [key for key, values in ONLY.items() if any(word not in values for word in found.words(key))]
    lacks += [key for key in MUST_BE_SET if key not in found.settings and key not in lacks]
    lists = found.settings.get("SystemCallFilter", ())
    allowed = {word for line in lists if not line.startswith("~") for word in line.split()}
    if not lists or lists[0].startswith("~") or allowed & set(DANGEROUS_CALLS):
        lacks.append("SystemCallFilter")
    if any(line.lstrip("@-:|")[:1] in ("+", "!") for line in found.settings.get("ExecStart", ())):
        lacks.append("ExecStart with full privileges")
    return lacks


@host_check("helper.socket", Severity.MEDIUM, needs=("/proc",))
def socket(host: Host) -> Findings:
    """Nobody can pose as the helper.

    Looks at owner, mode and ACL of the helper's socket, and of every directory and link on the way to it. That
    everybody may connect is fine: the helper asks the kernel who it is, and its policy decides.

    Holds unless: others than root own the socket or one of the directories, or may write one (by mode, group or ACL;
    a group without members does not count); the way goes through a link that others can change; it is no socket. SKIP
    if there is none.

    Why: who can write the directory can put a socket of their own there, and hand out memory and devices that are
    theirs.

    Fix: chown root and chmod 0755 on /run/ixy_vfio (RuntimeDirectory= in the unit), and start the helper again.
    """
    node, reading = host.node(SOCKET)
    above = replaceable(host, SOCKET.rpartition("/")[0])
    if node is None:
        yield skip("there is no helper's socket", reading)
    elif node.kind != "s":
        yield fail("it is no socket", reading)
    elif node.uid or above:
        yield fail("others than root could replace it", reading, *above)
    else:
        yield passed("root's, in a directory of root's", reading)


@host_check("helper.policy", Severity.HIGH, needs=("/proc",))
def policy(host: Host) -> Findings:
    """Only root decides who gets which device.

    Looks at owner, mode and ACL of the policy, and of every directory and link on the way to it: of the policy in /etc,
    and of the one that a running helper was told to use.

    Holds unless: others than root can write one of them, or put another one in its place. SKIP if there is no policy.

    Why: who can write the policy gives themselves any device in it.

    Fix: chown root:root and chmod go-w on /etc/ixy_vfio and policy.toml. (The helper refuses to work otherwise.)
    """
    told = [_after(one.argv, "--policy") for one in sessions_of(host).helpers]
    paths = sorted({POLICY, *(path for path in told if path.startswith("/"))})
    there = [reading for node, reading in map(host.node, paths) if node is not None]
    bad = [reading for path in paths for reading in replaceable(host, path)]
    if not there:
        yield skip("there is no policy", Reading(POLICY, None))
    elif bad:
        yield fail("others than root can change it", *bad)
    else:
        yield passed("root's alone", *there)


def _after(words: tuple[str, ...], option: str) -> str:
    for one, word in enumerate(words):
        if word == option and one + 1 < len(words):
            return words[one + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


@host_check("helper.code", Severity.HIGH, needs=("/proc",))
def code(host: Host) -> Findings:
    """What root runs as the helper can be changed by root only.

    Looks at owner, mode and ACL of the launcher, the units with their drop-ins, what they start, the files on a running
    helper's command line and in its memory, and of every directory and link on the way to them; of a directory of
    Python's, at what is in it, and at the packages beside it that it uses; of a script, at its interpreter and the
    files that it names.

    Holds unless: others than root can write one of them, or put another one in its place (by owner, mode, ACL, or a
    group that has members). What these programs read while they run, but the policy, is not looked at. SKIP if no
    helper is installed, nor runs.

    Why: a root process that runs a file of a user is that user's root shell.

    Fix: install it with scripts/setup, which copies it to a root-owned place and starts Python with -I and -S.
    """
    paths = _programs(host)
    if not paths:
        yield skip(NOT_HERE)
        return
    bad: dict[str, Reading] = {}
    for path in sorted({below for one in paths for below in files_below(host, one)}):
        try:
            bad |= {reading.path: reading for reading in replaceable(host, path, empty_groups=True)}
        except Denied as denied:
            yield skip(f"{denied} may not be looked at by you; run as root")
    if bad:
        yield fail(f"others than root can change {', '.join(bad)}", *bad.values())
    else:
        yield passed("root's alone", *(host.node(path)[1] for path in sorted(paths)))


def _programs(host: Host) -> set[str]:
    """Paths of what root runs as the helper."""
    words: set[str] = set()
    paths = {LAUNCHER} if host.exists(LAUNCHER) else set()
    for name in (SERVICE, SOCKET_UNIT):
        if (found := units.load(host, name)) is not None:
            paths |= {file.path for file in found.files}
            starts = [line for key, lines in found.settings.items() if key.startswith("Exec") for line in lines]
            words |= {word.lstrip("@-:+!|") for line in starts for word in line.split()}
    for one in sessions_of(host).helpers:
        words |= set(one.argv) - {_after(one.argv, "--policy")}
        words |= (
            {_mapped(line) for line in host.lines(f"/proc/{one.pid}/maps")} if one.shown_mappings is not None else set()
        )
    programs = {word for word in words if word.startswith("/") and _is_code(host, word)}
    run = paths | {path for one in programs | paths for path in programs_of(host, one)}
    beside = {path.removesuffix(PACKAGE) + name for path in run if path.endswith(PACKAGE) for name in BESIDE}
    return run | {path for path in beside if host.exists(path)}


def _mapped(line: str) -> str:
    """The file of a mapping."""
    words = line.split(maxsplit=5)
    return words[5] if len(words) == 6 and words[5].startswith("/") and "x" in words[1] else ""


def _is_code(host: Host, path: str) -> bool:
    node, _ = host.node(path)
    return node is not None and node.kind in "-d"
