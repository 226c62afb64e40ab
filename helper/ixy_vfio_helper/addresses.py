"""PCI addresses as people type them and as the kernel writes them. There is no other parser of them."""

import re

ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")  # of a device that can be leased
ANY = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")  # with those behind a VMD: 5 digits or more


def full_address(text: str, form: re.Pattern[str] = ADDRESS) -> str:
    """An address in full; the domain 0000: may be left out. Raises ValueError, with a line for people."""
    address = text.lower() if text.count(":") == 2 else f"0000:{text.lower()}"
    if not form.fullmatch(address):
        raise ValueError(f"{text}: not a PCI address like 0000:03:00.0")
    return address
