"""In the guest: `ixy-vfio audit ADDRESS --attack` as another user, who may not read where Python lies.

attacking.py UID WORD...
"""

import os
import sys
import time

from ixy_vfio.apps import audit as _app  # all that the command imports, before the user changes  # noqa: F401
from ixy_vfio.audit.attack import edu, igb, ixgbe, places, run, session  # noqa: F401
from ixy_vfio.cli import main
from ixy_vfio.core import libc
from ixy_vfio.transport import vfio  # noqa: F401

PR_SET_DUMPABLE = 4  # linux/prctl.h; as after an exec

if __name__ == "__main__":
    uid = int(sys.argv[1])
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    libc.prctl(PR_SET_DUMPABLE, 1)
    begin = time.monotonic()
    status = main(["audit", *sys.argv[2:], "--attack", "--yes", "--json"])
    print(f"{time.monotonic() - begin:.1f} s", file=sys.stderr)
    sys.exit(status)
