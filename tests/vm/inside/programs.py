"""What guests and their tests start."""

import sys

HELPER = [sys.executable, "-I", "-S", "helper/ixy_vfio_helper"]
