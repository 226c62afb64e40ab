"""The copper link: its PHY, reached by MDIC, negotiates; the MAC follows it. 82576 datasheet, 3.5 and 8.2."""

from enum import IntFlag

from ixy_vfio.core.errors import DeviceError, LinkDown
from ixy_vfio.core.mmio import Mmio, polls, section
from ixy_vfio.drivers.contract import Link
from ixy_vfio.drivers.igb.models import Model
from ixy_vfio.drivers.igb.regs import CTRL, MDIC, PHPM, STATUS, SW_FW_SYNC, SWSM
from ixy_vfio.drivers.semaphore import Semaphore

held = Semaphore(SWSM, SW_FW_SYNC).held

PHY = 1  # the address of the port's own PHY: Linux's; I350 and I210 take it from MDICNFG
READ, WRITE = 2, 1  # MDIC.OP
MDIC_WAIT = 0.1  # seconds; Linux gives it 10 ms
SPEEDS = (10, 100, 1000, 1000)  # Mbit/s, by STATUS.SPEED

# IEEE 802.3, 22.2.4.1: register 0 of a PHY, control.
CONTROL = 0
LOOPBACK, NEGOTIATE, POWER_DOWN, ISOLATE, RESTART = 1 << 14, 1 << 12, 1 << 11, 1 << 10, 1 << 9


class Resource(IntFlag):
    """Bits of SW_FW_SYNC that software takes (8.7): the PHY of each port."""

    PHY0 = 1 << 1
    PHY1 = 1 << 2
    PHY2 = 1 << 5
    PHY3 = 1 << 6


def _phy(bar: Mmio, op: int, register: int, data: int = 0) -> int:
    """One access to the PHY. DeadlineError when MDIC is not ready in time, DeviceError when the PHY does not answer."""
    MDIC(op=op, phyadd=PHY, regadd=register, data=data).write(bar)
    answer = MDIC.wait(bar, ready=1, within=MDIC_WAIT)
    if answer.error:
        raise DeviceError(f"the PHY does not answer (MDIC {int(answer):#010x}): is this a copper port?")
    return int(answer.data)


@section("3.5")
def start(bar: Mmio, model: Model) -> None:
    """Tell the PHY to negotiate anew, and the MAC to follow it. Does not wait."""
    CTRL.modify(bar, slu=1, frcspd=0, frcdplx=0)
    if model.later:
        PHPM.modify(bar, go_linkd=0)
    with held(bar, list(Resource)[STATUS.read(bar).lan_id]):
        control = _phy(bar, READ, CONTROL) & ~(LOOPBACK | POWER_DOWN | ISOLATE)
        _phy(bar, WRITE, CONTROL, control | NEGOTIATE | RESTART)


@section("8.2")
def read(bar: Mmio) -> Link:
    """The link, now."""
    status = STATUS.read(bar)
    return Link(up=bool(status.lu), speed=SPEEDS[status.speed] if status.lu else 0)


def wait(bar: Mmio, deadline: float) -> Link:
    """The link as soon as it is up. LinkDown after `deadline` seconds. A PHY goes on negotiating by itself."""
    for _ in polls(deadline):
        link = read(bar)
        if link.up:
            return link
    status = int(STATUS.read(bar))
    raise LinkDown(f"no link after {deadline:g} s (STATUS {status:#010x}); is the cable in, is the peer up?")
