"""Root runs no packages that a user has installed: whoever can change them would be root."""

import os
import pwd
import sys

from ixy_vfio.core.errors import UsageError


def refuse_a_users_packages() -> None:
    """Raise UsageError when sudo runs a virtual environment of somebody else. Root would leave files there, too."""
    uid = os.stat(sys.prefix).st_uid
    if os.geteuid() != 0 or os.environ.get("SUDO_UID", "0") == "0" or uid == 0:
        return
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    raise UsageError(
        f"{sys.prefix} is {name}'s, and root runs no packages that a user can change: run it as yourself; what only "
        "root sees shows `sudo scripts/audit`; for the rest make a copy of root's own (docs/hardware.md)"
    )
