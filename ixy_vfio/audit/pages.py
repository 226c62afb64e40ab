"""The pages of the checks: what `--explain` prints, and the files in docs/audit, which are made from the same text.

python -m ixy_vfio.audit.pages docs/audit      writes them anew
"""

import sys
from pathlib import Path

from ixy_vfio.audit import checks as _checks  # registers them  # noqa: F401
from ixy_vfio.audit.model import CHECKS, Check, Scope
from ixy_vfio.core.errors import UsageError

HEADINGS = {
    Scope.HOST: "On the host",
    Scope.DEVICE: "On each device",
    Scope.SESSION: "On each session",
    Scope.ATTACK: "By attacking: `ixy-vfio audit DEVICE --attack`",
}

HEADED = (  # how a paragraph begins, and its heading
    ("Holds unless: ", "## What would make it false"),
    ("Why: ", "## Why it matters"),
    ("Fix: ", "## What to do"),
)
ATTACKING = """
DEVICE must be yours to lease, and idle. It comes from the helper, as memory does, so an attack has no right that a
driver has not. You are asked first; `--yes` answers beforehand. Each attack runs in a process and leases of its own,
with a deadline; each lease begins with a control: what the device may do works. The verdict is of memory: a canary that
changed, or what came out of the device. A fault of the IOMMU is the second witness: the line that Linux logs, which
ends the lease, or, as it logs only some, the count of VT-d's fault interrupts in /proc/interrupts. A device that gives
out zeros, with no fault seen, is a warning: it cannot be told.

Devices that can attack: 82599, X540 and X550 in loopback (of these only the simulated 82599 was ever run), 82576, and
QEMU's edu. Root binds a device that is no NIC of ours to vfio-pci and names it in the policy; the helper leases it like
any other. Only root learns physical addresses and can kill the helper: run those two attacks as root, in a copy of
root's own (docs/hardware.md, "As root"), and name root in the policy; the others as the user who runs drivers. On a
simulated device the simulator stands in the place of the IOMMU: what holds there says nothing of a machine. No device
here can send requests marked as translated: see device.ats.
"""


def page(check: Check) -> str:
    """One check, as Markdown."""
    title, _, body = check.text.partition("\n")
    for word, heading in HEADED:
        before, found, after = body.partition(f"\n{word}")
        if not found:
            continue
        body = f"{before}\n{heading}\n\n{after[:1].upper()}{after[1:]}"
    runs = "Runs with --attack only" if check.scope is Scope.ATTACK else f"Runs on: {check.scope.value}"
    facts = f"{runs}. Severity of a failure: {check.severity.name.lower()}."
    root = " Needs root to see everything." if check.needs_root else ""
    return f"# {check.name}: {title.rstrip('.')}\n\n{facts}{root}\n\n{body.strip()}\n"


def index() -> str:
    """All checks, as Markdown."""
    lines = [
        "# The checks of `ixy-vfio audit`",
        "",
        "Made from the checks themselves by `python -m ixy_vfio.audit.pages docs/audit`. "
        "The JSON is described in [schema.md](schema.md).",
    ]
    for scope in Scope:
        lines += ["", f"## {HEADINGS[scope]}", *([ATTACKING.rstrip()] if scope is Scope.ATTACK else []), ""]
        lines += [f"* [{one.name}]({one.name}.md): {one.title}" for one in CHECKS.values() if one.scope is scope]
    return "\n".join(lines) + "\n"


def explain(name: str) -> str:
    """The page of a check. UsageError names those there are."""
    if name not in CHECKS:
        near = [known for known in CHECKS if name in known] or list(CHECKS)
        raise UsageError(f"{name}: no such check; there are {', '.join(near)}")
    return page(CHECKS[name])


def write(directory: Path) -> None:
    """Write all pages, and take away those of checks that are no more."""
    wanted = {f"{check.name}.md": page(check) for check in CHECKS.values()} | {"README.md": index()}
    for path in directory.glob("*.md"):
        if path.name not in wanted and path.name != "schema.md":
            path.unlink()
    for name, text in wanted.items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
