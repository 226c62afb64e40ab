"""The semaphores: what a driver left behind is taken over, what firmware holds is not."""

import pytest

from ixy_vfio.core.errors import DeadlineError, DeviceError
from ixy_vfio.drivers.ixgbe.eeprom import Resource, held
from ixy_vfio.drivers.ixgbe.models import model_of
from tests.unit.ixgbe_support import FakeBar, FakeDevice, make_port

SOFTWARE, FIRMWARE = Resource.MAC, Resource.MAC << 5


def bar_with(sync: int) -> FakeBar:
    bar = FakeDevice().bar0
    bar["SW_FW_SYNC"] = sync
    return bar


def test_a_free_resource_is_held_and_given_back() -> None:
    bar = bar_with(Resource.EEPROM)  # somebody else's
    with held(bar, Resource.MAC):
        assert bar["SW_FW_SYNC"] == Resource.EEPROM | Resource.MAC
    assert bar["SW_FW_SYNC"] == Resource.EEPROM
    assert bar["SWSM"] == 0


def test_what_a_dead_driver_held_is_taken_over_after_a_second() -> None:
    bar = bar_with(SOFTWARE)
    with held(bar, Resource.MAC):
        assert bar["SW_FW_SYNC"] == SOFTWARE
    assert bar["SW_FW_SYNC"] == 0


def test_what_firmware_holds_is_not() -> None:
    bar = bar_with(SOFTWARE | FIRMWARE)
    text = "SW_FW_SYNC: MAC is not free after 1 s: last value 0x00000108"
    with pytest.raises(DeadlineError, match=text), held(bar, Resource.MAC):
        pass
    assert bar["SW_FW_SYNC"] == SOFTWARE | FIRMWARE
    assert bar["SWSM"] == 0


def test_a_device_id_that_changes() -> None:
    with pytest.raises(DeviceError, match="the device id reads 0xffff"):
        model_of(0xFFFF)
    with pytest.raises(DeviceError, match="the device id reads 0x1234"):
        make_port(device_id=0x1234)
