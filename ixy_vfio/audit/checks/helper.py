"""The privileged helper: its processes, its unit, its socket, its policy."""

from ixy_vfio.audit.host import Host
from ixy_vfio.audit.model import Findings, Reading, Severity, fail, host_check, passed, skip, warn
from ixy_vfio.audit.system import Denied

SOCKET, POLICY = "/run/ixy_vfio/helper.sock", "/etc/ixy_vfio/policy.toml"
UNITS = [f"{place}/systemd/system/ixy-vfio-helper.service" for place in ("/etc", "/usr/lib", "/lib", "/run")]
ALL_CAPABILITIES = 36  # a process with more of them than this was not confined (Linux has 41)
HARDENING = (
    "CapabilityBoundingSet", "NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp", "RestrictAddressFamilies",
    "SystemCallFilter", "MemoryDenyWriteExecute",
)  # fmt: skip
NOT_HERE = "no helper is installed"


@host_check("helper.capabilities", Severity.MEDIUM)
def capabilities(host: Host) -> Findings:
    """The helper has the capabilities it needs, not all of them.

    Looks at the capabilities of the helper's processes.

    Why: it is the one process of ours with rights; a hole in it should not be worth all of root.

    Fix: start it by its systemd unit, which bounds them.
    """
    helpers = host.sessions.helpers
    if not helpers:
        yield skip("no helper is running (or it is hidden)")
        return
    bad = [one for one in helpers if one.capabilities.bit_count() > ALL_CAPABILITIES]
    if bad:
        yield warn(f"all capabilities: {', '.join(map(str, bad))}", *(one.fact("CapEff") for one in bad))
    else:
        yield passed("bounded", *(one.fact("CapEff") for one in helpers))


@host_check("helper.unit", Severity.LOW)
def unit(host: Host) -> Findings:
    """The helper's systemd unit is hardened.

    Looks for the settings that matter most in ixy-vfio-helper.service.

    Why: they bound what a taken-over helper can reach.

    Fix: install the unit that comes with the project (scripts/setup); look at `systemd-analyze security
    ixy-vfio-helper`.
    """
    readings = [reading for path in UNITS if (reading := host.read(path)).value is not None]
    if not readings:
        yield skip(NOT_HERE if not host.sessions.helpers else "it runs without a unit")
        return
    given = dict(line.split("=", 1) for line in (readings[0].value or "").splitlines() if "=" in line)
    missing = [key for key in HARDENING if given.get(key, "no") in ("", "no", "false", "0")]
    if missing:
        yield warn(f"not hardened: {', '.join(missing)}", readings[0])
    else:
        yield passed("hardened", Reading(readings[0].path, ", ".join(f"{key}={given[key]}" for key in HARDENING)))


@host_check("helper.socket", Severity.MEDIUM)
def socket(host: Host) -> Findings:
    """Nobody can pose as the helper.

    Looks at owner and mode of the helper's socket and its directory. That everybody may connect is fine: the helper
    asks the kernel who it is, and its policy decides.

    Why: who can write the directory can put a socket of their own there, and hand out memory and devices that are
    theirs.

    Fix: chown root and chmod 0755 on /run/ixy_vfio (RuntimeDirectory= in the unit), and start the helper again.
    """
    node, reading = host.node(SOCKET)
    directory, above = host.node(SOCKET.rpartition("/")[0])
    if node is None:
        yield skip("there is no helper's socket", reading)
    elif node.uid or (directory and (directory.uid or directory.mode & 0o022)):
        yield fail("others than root could replace it", reading, above)
    else:
        yield passed("root's, in a directory of root's", reading, above)


@host_check("helper.policy", Severity.HIGH)
def policy(host: Host) -> Findings:
    """Only root decides who gets which device.

    Looks at owner and mode of the policy and its directory.

    Why: who can write the policy gives themselves any device in it.

    Fix: chown root:root and chmod go-w on /etc/ixy_vfio and policy.toml. (The helper refuses to work otherwise.)
    """
    found = [host.node(path) for path in (POLICY, POLICY.rpartition("/")[0])]
    if found[0][0] is None:
        yield skip("there is no policy", found[0][1])
    elif bad := [reading for node, reading in found if node and (node.uid or node.mode & 0o022)]:
        yield fail("others than root can change it", *bad)
    else:
        yield passed("root's alone", *(reading for _, reading in found))


@host_check("helper.code", Severity.HIGH)
def code(host: Host) -> Findings:
    """The helper's program can be changed by root only.

    Looks at owner and mode of the files on the helper's command line and of the directories above them.

    Why: a root process that runs a file of a user is that user's root shell.

    Fix: install it with scripts/setup, which copies it to a root-owned place and starts Python with -I and -S.
    """
    words = {word for one in host.sessions.helpers if 0 in one.uids for word in one.argv if word.startswith("/")}
    if not words:
        yield skip("no helper of root is running (or it is hidden)")
        return
    bad = []
    for word in sorted(words):
        for path in _with_parents(word):
            try:
                node, reading = host.node(path)
            except Denied:
                continue
            if node is not None and node.kind != "s" and (node.uid or node.mode & 0o022) and not node.mode & 0o1000:
                bad.append(reading)
    if bad:
        yield fail(f"others than root can change {', '.join(reading.path for reading in bad)}", *bad)
    else:
        yield passed("root's alone", *(host.node(word)[1] for word in sorted(words)))


def _with_parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), 1, -1)]
