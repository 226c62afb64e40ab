"""PCI addresses: what is one, what is none, and what may be left out."""

import pytest
from ixy_vfio_helper.addresses import ANY, full_address


def test_the_domain_may_be_left_out_and_letters_may_be_large() -> None:
    assert full_address("03:00.0") == full_address("0000:03:00.0") == "0000:03:00.0"
    assert full_address("00AB:CD:1F.7") == "00ab:cd:1f.7"


@pytest.mark.parametrize(
    "text",
    [
        *("", "03:00", "3:00.0", "0000:03:00.8", "0000:03:20.0", "0000:03:00.0 ", " 0000:03:00.0", "0000:03:00.0\n"),
        *("0:0:03:00.0", "../../x", "10000:03:00.0", "0000:03:0g.0", "0000:03:00.00", "\u0661\u0661:00.0"),
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a PCI address like 0000:03:00\.0"):
        full_address(text)


def test_a_device_behind_a_vmd_is_looked_at_and_never_leased() -> None:
    assert full_address("10000:01:00.0", ANY) == "10000:01:00.0"
    with pytest.raises(ValueError, match=r"10000:01:00\.0: not a PCI address"):
        full_address("10000:01:00.0")
