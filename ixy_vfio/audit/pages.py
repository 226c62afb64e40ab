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


def page(check: Check) -> str:
    """One check, as Markdown."""
    title, _, body = check.text.partition("\n")
    for word, heading in (("Why: ", "## Why it matters"), ("Fix: ", "## What to do")):
        before, _, after = body.partition(f"\n{word}")
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
        lines += ["", f"## {HEADINGS[scope]}", ""]
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
