"""The program `ixy-vfio`, and `python -m ixy_vfio`. From the first line on, a signal ends it without a word."""

from ixy_vfio.core import signals

signals.leave()

from ixy_vfio.cli import main  # noqa: E402  # imports take time, in which somebody may press Ctrl-C
from ixy_vfio.core.guard import end  # noqa: E402

if __name__ == "__main__":
    end(main())
