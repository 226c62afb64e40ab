"""The helper: its capabilities, its unit with drop-ins, its socket, its policy, and all that root runs of it."""

from ixy_vfio.audit.tree import Tree
from tests.unit.audit.audit_support import HELPER, append, edit, link, node, thread, write
from tests.unit.audit.mutating import FAIL, LAUNCHER, UNIT, WARN, mutate, mutation

SERVER = 900
NONE = "0000000400000000"
DROP_IN = f"{UNIT}.d/override.conf"

# -- capabilities


def _capability(tree: Tree, pid: int, line: str, bit: int) -> None:
    old = NONE if line in ("CapEff", "CapPrm") else "0000000000000000"
    edit(tree, f"/proc/{pid}/status", f"{line}:\t{old}", f"{line}:\t{int(old, 16) | 1 << bit:016x}")


for name, bit in {
    "chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "kill": 5, "setgid": 6, "setuid": 7, "setpcap": 8,
    "net_admin": 12, "net_raw": 13, "sys_module": 16, "sys_rawio": 17, "sys_chroot": 18, "sys_ptrace": 19,
    "sys_admin": 21,
    "sys_boot": 22, "mknod": 27, "setfcap": 31, "mac_admin": 33, "perfmon": 38, "bpf": 39, "checkpoint_restore": 40,
    "a_newer_one": 41,
}.items():  # fmt: skip
    mutate(f"helper_with_{name}", "helper.capabilities", FAIL, _capability, HELPER, "CapEff", bit)
mutate("helper_with_ipc_lock", "helper.capabilities", WARN, _capability, HELPER, "CapEff", 14)
mutate("helper_that_may_take_one", "helper.capabilities", FAIL, _capability, HELPER, "CapPrm", 21)
mutate("helper_that_hands_one_on", "helper.capabilities", FAIL, _capability, HELPER, "CapInh", 21)
mutate("listening_helper_with_one", "helper.capabilities", FAIL, _capability, SERVER, "CapEff", 21)
mutate("helper_with_one_in_a_thread", "helper.capabilities", FAIL, thread, HELPER, 905, CapEff="0000000000200000")

# -- unit

for key in (
    "NoNewPrivileges", "PrivateTmp", "PrivateMounts", "PrivateNetwork", "ProtectClock", "ProtectHostname",
    "ProtectControlGroups", "ProtectKernelModules", "ProtectKernelTunables", "RestrictNamespaces", "RestrictRealtime",
    "RestrictSUIDSGID", "LockPersonality", "MemoryDenyWriteExecute",
):  # fmt: skip
    mutate(f"unit_with_{key}_off", "helper.unit", WARN, edit, UNIT, f"{key}=yes", f"{key}=off")
    mutate(f"unit_without_{key}", "helper.unit", WARN, edit, UNIT, f"{key}=yes\n", "")
for word in ("false", "0", "No", "f", "OFF", ""):
    mutate(
        f"unit_with_new_privileges_{word or 'empty'}",
        "helper.unit",
        WARN,
        edit,
        UNIT,
        "NoNewPrivileges=yes",
        f"NoNewPrivileges={word}",
    )
for name, old, new in (
    ("a_comment", "NoNewPrivileges=yes", "#NoNewPrivileges=yes"),
    ("a_later_line", "NoNewPrivileges=yes", "NoNewPrivileges=yes\nNoNewPrivileges=no"),
    ("spaces", "NoNewPrivileges=yes", "NoNewPrivileges = no"),
    ("another_section", "[Service]\n", "[Service]\n[Install]\n"),
    ("weak_system", "ProtectSystem=strict", "ProtectSystem=full"),
    ("home", "ProtectHome=yes", "ProtectHome=no"),
    ("proc", "ProtectProc=invisible", "ProtectProc=default"),
    ("more_of_proc", "ProcSubset=pid", "ProcSubset=all"),
    ("devices", "DevicePolicy=closed", "DevicePolicy=auto"),
    ("memory_device", "DeviceAllow=/dev/iommu rw", "DeviceAllow=/dev/iommu rw\nDeviceAllow=/dev/mem rw"),
    ("paths", "ReadWritePaths=/run/ixy_vfio", "ReadWritePaths=/run/ixy_vfio /"),
    ("more_capabilities", "CapabilityBoundingSet=CAP_SYSLOG", "CapabilityBoundingSet=CAP_SYSLOG CAP_SYS_ADMIN"),
    ("all_capabilities_but_one", "CapabilityBoundingSet=CAP_SYSLOG", "CapabilityBoundingSet=~CAP_SYS_ADMIN"),
    ("capabilities_not_bounded", "CapabilityBoundingSet=CAP_SYSLOG\n", ""),
    ("ambient_capabilities", "AmbientCapabilities=", "AmbientCapabilities=CAP_SYS_RAWIO"),
    ("families", "RestrictAddressFamilies=AF_UNIX", "RestrictAddressFamilies=AF_UNIX AF_INET"),
    ("all_families_but_one", "RestrictAddressFamilies=AF_UNIX", "RestrictAddressFamilies=~AF_PACKET"),
    ("families_not_restricted", "RestrictAddressFamilies=AF_UNIX\n", ""),
    ("calls_forbidden_only", "SystemCallFilter=@system-service", "SystemCallFilter=~@mount"),
    ("calls_of_root", "SystemCallFilter=@system-service", "SystemCallFilter=@system-service @module"),
    ("other_abis", "SystemCallArchitectures=native", "SystemCallArchitectures=native x86"),
    ("full_privileges", "ExecStart=/usr", "ExecStart=+/usr"),
    ("privileges_of_its_user", "ExecStart=/usr", "ExecStart=-!!/usr"),
):
    mutate(f"unit_with_{name}", "helper.unit", WARN, edit, UNIT, old, new)
for place, path in {
    "beside_it": DROP_IN, "in_run": "/run/systemd/system/ixy-vfio-helper.service.d/z.conf",
    "of_systemctl": "/etc/systemd/system.control/ixy-vfio-helper.service.d/50-x.conf",
    "of_its_prefix": "/etc/systemd/system/ixy-vfio-.service.d/x.conf",
    "of_a_shorter_prefix": "/usr/lib/systemd/system/ixy-.service.d/x.conf",
    "of_all_services": "/usr/local/lib/systemd/system/service.d/x.conf",
}.items():  # fmt: skip
    mutate(f"drop_in_{place}", "helper.unit", WARN, write, path, "[Service]\nNoNewPrivileges=off\n")
mutate("drop_in_that_takes_the_filter_back", "helper.unit", WARN, write, DROP_IN, "[Service]\nSystemCallFilter=\n")
mutate(
    "drop_in_with_a_line_that_goes_on", "helper.unit", WARN, write, DROP_IN, "[Service]\nReadWritePaths=\\\n  /etc\n"
)
mutate(
    "drop_in_with_another_start",
    "helper.unit",
    WARN,
    write,
    DROP_IN,
    f"[Service]\nExecStart=\nExecStart=!{LAUNCHER} serve\n",
)
mutate(
    "unit_in_a_place_that_comes_first",
    "helper.unit",
    WARN,
    write,
    UNIT.replace("system/", "system.control/"),
    "[Service]\nExecStart=/bin/sh\n",
)
mutate(
    "helper_outside_of_its_unit", "helper.unit", WARN, write, f"/proc/{SERVER}/cgroup", "0::/user.slice/session-1.scope"
)
mutate(
    "helper_before_the_unit_was_hardened",
    "helper.unit",
    WARN,
    edit,
    f"/proc/{SERVER}/status",
    "Seccomp:\t2",
    "Seccomp:\t0",
)

# -- socket and policy

RUN, ETC = "/run/ixy_vfio", "/etc/ixy_vfio"
mutate("socket_that_is_a_file", "helper.socket", FAIL, node, f"{RUN}/helper.sock", 0o644, kind="-")
mutate("socket_in_a_directory_of_a_group", "helper.socket", FAIL, node, RUN, 0o775, kind="d", gid=1000)
mutate("socket_in_a_directory_by_acl", "helper.socket", FAIL, node, RUN, 0o775, kind="d", acl="u1000=7,g=5")
mutate("socket_below_a_directory_for_all", "helper.socket", FAIL, node, "/run", 0o777, kind="d")
mutate("socket_below_a_directory_of_a_user", "helper.socket", FAIL, node, "/run", 0o755, uid=1000, kind="d")
mutate("policy_that_everybody_writes", "helper.policy", FAIL, node, f"{ETC}/policy.toml", 0o646, kind="-")
mutate("policy_of_a_group", "helper.policy", FAIL, node, f"{ETC}/policy.toml", 0o664, kind="-", gid=1000)
mutate("policy_by_acl", "helper.policy", FAIL, node, f"{ETC}/policy.toml", 0o664, kind="-", acl="u1000=6,g=4")
mutate("policy_in_a_directory_of_a_group", "helper.policy", FAIL, node, ETC, 0o775, kind="d", gid=1000)
mutate("policy_in_a_directory_by_acl", "helper.policy", FAIL, node, ETC, 0o775, kind="d", acl="g1000=2,g=5")


@mutation("helper.policy")
def policy_that_is_a_link_to_a_home(tree: Tree) -> None:
    tree.remove(f"{ETC}/policy.toml")
    link(tree, f"{ETC}/policy.toml", "../../home/alice/policy.toml")
    node(tree, "/home/alice", 0o755, uid=1000, kind="d")
    node(tree, "/home/alice/policy.toml", 0o644, kind="-")


@mutation("helper.policy")
def policy_of_another_place(tree: Tree) -> None:
    append(tree, f"/proc/{SERVER}/cmdline", "--policy /srv/policy.toml")
    node(tree, "/srv/policy.toml", 0o644, uid=1000, kind="-")


# -- code

LIBRARY = "/usr/local/lib/ixy_vfio"
for name, path, kind in (
    ("launcher", LAUNCHER, "-"), ("unit", UNIT, "-"), ("socket_unit", UNIT.replace(".service", ".socket"), "-"),
    ("module", f"{LIBRARY}/ixy_vfio_helper/server.py", "-"),
    ("binder", f"{LIBRARY}/ixy_vfio_setup/commands.py", "-"), ("locks", f"{LIBRARY}/ixy_vfio_locks", "d"),
    ("python", "/usr/bin/python3.11", "-"), ("shell", "/bin/sh", "-"),
    ("directory_of_units", "/etc/systemd/system", "d"), ("directory_of_launchers", "/usr/local/sbin", "d"),
):  # fmt: skip
    mutate(f"{name}_of_a_user", "helper.code", FAIL, node, path, 0o755, uid=1000, kind=kind)
    mutate(f"{name}_that_everybody_writes", "helper.code", FAIL, node, path, 0o757, kind=kind)
    mutate(f"{name}_of_a_group", "helper.code", FAIL, node, path, 0o775, kind=kind, gid=1000)
    mutate(f"{name}_by_acl", "helper.code", FAIL, node, path, 0o775, kind=kind, acl="u1000=6,g=5")
mutate(
    "launcher_of_a_group_that_has_members_now",
    "helper.code",
    FAIL,
    edit,
    "/etc/group",
    "staff:x:50:",
    "staff:x:50:alice",
)


@mutation("helper.code")
def library_of_a_user_in_its_memory(tree: Tree) -> None:
    append(tree, f"/proc/{SERVER}/maps", "7f0000000000-7f0000001000 r-xp 00000000 08:01 5 /srv/evil.so\n")
    node(tree, "/srv/evil.so", 0o755, uid=1000, kind="-")


@mutation("helper.code")
def drop_in_of_a_user(tree: Tree) -> None:
    write(tree, DROP_IN, "[Service]\nNice=5\n")
    node(tree, DROP_IN, 0o644, uid=1000, kind="-")


@mutation("helper.code")
def directory_of_drop_ins_of_a_user(tree: Tree) -> None:
    write(tree, DROP_IN, "[Service]\nNice=5\n")
    node(tree, f"{UNIT}.d", 0o755, uid=1000, kind="d")


@mutation("helper.code")
def launcher_that_is_a_link_to_a_home(tree: Tree) -> None:
    tree.remove(LAUNCHER)
    link(tree, LAUNCHER, "/home/alice/ixy-vfio-helper")
    node(tree, "/home/alice", 0o755, uid=1000, kind="d")
    write(tree, "/home/alice/ixy-vfio-helper", "#!/bin/sh\n")


@mutation("helper.code")
def launcher_that_names_a_file_of_a_user(tree: Tree) -> None:
    append(tree, LAUNCHER, "exec /srv/helper.py\n")
    node(tree, "/srv/helper.py", 0o644, uid=1000, kind="-")
