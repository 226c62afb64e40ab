"""`ixy-vfio list`: the devices that the helper offers to this user."""

import argparse
import json

from ixy_vfio.hw.devices import name_of
from ixy_vfio.transport.lease import DEFAULT_SOCKET, ENVIRONMENT, DeviceInfo, Lease, State

_STATES = {
    State.FREE: "free",
    State.YOURS: "leased by you",
    State.LEASED: "leased",
    State.UNBOUND: "not bound to vfio-pci",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--helper", metavar="PATH", help=f"the helper's socket (${ENVIRONMENT}, else {DEFAULT_SOCKET})")
    parser.add_argument("--json", action="store_true", help="print a JSON list")


def run(arguments: argparse.Namespace) -> int:
    """Print a line per device."""
    with Lease(arguments.helper) as lease:
        devices = lease.devices()
    if arguments.json:
        print(json.dumps([_entry(device) for device in devices], indent=2))
        return 0
    for device in devices:
        numa = str(device.numa) if device.numa >= 0 else "-"
        print(
            f"{device.address}  {device.vendor:04x}:{device.device:04x}  {_model(device):20}  "
            f"driver {device.driver or 'none'}  numa {numa}  {_STATES[device.state]}"
        )
    if not devices:
        print("the helper's policy names no device that is there for you")
    return 0


def _model(device: DeviceInfo) -> str:
    return name_of(device.vendor, device.device)


def _entry(device: DeviceInfo) -> dict[str, object]:
    return {
        "address": device.address,
        "vendor": device.vendor,
        "device": device.device,
        "model": _model(device),
        "driver": device.driver,
        "numa": device.numa,
        "state": _STATES[device.state],
    }
