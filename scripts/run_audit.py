"""`scripts/audit`: the audit that only looks, as root sees it. Runs under `python3 -I -S -B`, without any package."""

import os
import sys
from pathlib import Path

TREE = Path(os.path.abspath(__file__)).parents[1]
CODE = ("ixy_vfio", "helper", "scripts/audit", "scripts/run_audit.py")
sys.path[0:1] = []
sys.path.append(str(TREE / "helper"))

from ixy_vfio_setup import look, trust  # noqa: E402 # the way to it comes first


def main() -> int:
    """Look who can change the code, before any of it is imported; then audit. Returns the exit status."""
    trusted = frozenset({0, look.caller()[0]} - {look.NOBODY[0]})
    if found := trust.strangers([TREE / name for name in CODE], trusted):
        names = " and ".join(trust.uid_name(uid) for uid in sorted(trusted))
        print(f"audit: {found}; root runs this code: only {names} may be able to change it", file=sys.stderr)
        return 2
    if "--attack" in sys.argv:
        print("audit: --attack needs packages: run it as yourself, or in a copy of root's own", file=sys.stderr)
        return 2
    sys.path.append(str(TREE))
    from ixy_vfio import cli

    return cli.main(["audit", *sys.argv[1:]])


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
