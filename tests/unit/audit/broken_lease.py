"""A simulated helper with one fault: python -m tests.unit.audit.broken_lease FAULT --dir DIR --ports N"""

import sys
from pathlib import Path

from ixy_vfio.sim import lease
from ixy_vfio.sim.lease import PortSession
from tests.broken import break_it, faults


def held(session: PortSession, _: int) -> int:
    """The connection by which DMA is mapped; the client's device ends with it."""
    assert session._owner is not None
    return session._owner.socket.fileno()


if __name__ == "__main__":
    fault = sys.argv.pop(1)
    break_it(*faults(PortSession, Path(sys.argv[sys.argv.index("--dir") + 1]) / "kept", held)[fault])
    sys.exit(lease.main())
