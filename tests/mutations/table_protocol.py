"""Messages: between helper and client, control and worker, driver and simulated device; and what a lease checks."""

# ruff: noqa: E501 - the texts of other files

from tests.mutations.row import rows

ROWS = [
    *rows(
        "protocol", "helper/ixy_vfio_helper/protocol.py", "tests/unit/test_protocol.py",
        ("size", "if len(data) != SIZE:", "if len(data) < SIZE:"),
        ("magic", "if magic != MAGIC:", "if False:"),
        ("version", "if version != VERSION:", "if False:"),
        ("kinds", "    if code not in kinds:\n        raise ProtocolError(f\"unknown message type {code:#x}\")\n    kind = kinds[code]",
         "    kind = kinds.get(code) or next(iter(kinds.values()))"),
        ("padding", "if any(data[HEADER.size + kind.layout.size :]):", "if False:"),
        ("text", "if any(not 0x20 <= byte <= 0x7E for byte in text):", "if any(byte > 0x7E for byte in text):"),
        ("descriptors", "if len(fds) != message.fds or flags & socket.MSG_CTRUNC:", "if False:"),
        ("descriptors_closed", "        for fd in fds:\n            os.close(fd)\n        raise", "        raise"),
        ("address", "if not ADDRESS.fullmatch(self.address):", "if False:"),
        ("memory", "if not self.size or not self.devices or self.purpose not in tuple(Purpose):", "if False:"),
        ("one_line", 'line = " ".join(text.split()).encode("ascii", "replace").decode()', "line = text"),
        ("cut_text", "if decode(data, {message.code: type(message)}) != (sequence, message):", "if False:"),
    ),
    *rows(
        "address", "helper/ixy_vfio_helper/addresses.py", "tests/unit/test_addresses.py",
        ("form", "if not form.fullmatch(address):", "if False:"),
        ("devices_to_1f", 'ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]', 'ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}'),
    ),
    *rows(
        "lease", "ixy_vfio/transport/lease.py", "tests/unit/test_lease.py",
        ("foreign_device", "if device.address not in self._devices:", "if False:"),
        ("sequence", "if isinstance(reply, answer) and sequence == self._sequence:", "if isinstance(reply, answer):"),
        ("wrong_answer", "        for fd in fds:\n            os.close(fd)\n        if isinstance(reply, protocol.Refused)", "        if isinstance(reply, protocol.Refused)"),
        ("over", "        if self._over is not None:\n            raise LeaseError(self._over)\n        self._sequence += 1", "        self._sequence += 1"),
        ("unasked", '        raise self._lost(f"the helper sent {type(message).__name__} without being asked")', "        return"),
        ("memory_size", "if not 0 < size < 1 << 63 or not mask:", "if False:"),
        ("deadline", "connection.settimeout(DEADLINE)", "connection.settimeout(None)", "tests/unit/test_lease.py::test_nothing_answers"),
    ),
    *rows(
        "vfio_user", "ixy_vfio/transport/vfio_user.py", "tests/unit/test_vfio_user_device.py",
        ("reply", "if not reply.is_reply or (reply.id, reply.command) != (message_id, command):", "if False:"),
        ("refused", "if reply.flags & wire.ERROR:", "if False:"),
        ("length", "if len(reply.payload) != wire.REGION_ACCESS.size + size or reply.fds:", "if False:"),
        ("descriptors", "if len(reply.fds) != (1 if areas else 0):", "if False:"),
        ("areas", "if any(offset % PAGE or area % PAGE or offset + area > size for offset, area in areas):", "if False:"),
        ("capabilities_cut", "if len(area) != count * wire.SPARSE_AREA.size:", "if False:"),
        ("capabilities_loop", "if following and following <= offset:", "if False:"),
        ("register_offset", "if offset % 4 or not 0 <= offset <= self.size - 4:", "if False:"),
        ("register_value", "if not 0 <= value <= ALL_ONES:", "if False:"),
        ("mapped_pages", "if offset % PAGE or size % PAGE or size <= 0 or not inside or self._region.fd is None:", "if self._region.fd is None:"),
        ("config_offset", "if size not in (1, 2, 4) or offset % size or not 0 <= offset < PAGE:", "if False:"),
        ("no_device", "if not info[1] & wire.DEVICE_FLAG_PCI or info[2] < wire.PCI_REGIONS or info[3] < wire.PCI_IRQS:", "if False:"),
        ("vectors", "if len(eventfds) > self._msix_vectors:", "if False:"),
        ("broken", "        if self._broken:\n            raise self._gone()\n", ""),
        ("closed", "        if self._closed:\n", "        if False:\n"),
    ),
    *rows(
        "messages", "ixy_vfio/runtime/messages.py", "tests/unit/test_messages.py",
        ("size", "    if len(data) != SIZE:\n        raise", "    if len(data) > SIZE:\n        raise"),
        ("kind", "if kind not in Kind.__members__.values() or length > TEXT:", "if False:"),
        ("share", "if len(payload) != _SHARE.size:", "if False:"),
    ),
    *rows(
        "child", "ixy_vfio/runtime/child.py", "tests/unit/test_messages.py",
        ("printable", '"".join(c if c.isprintable() else "?" for c in payload.decode(errors="replace"))', 'payload.decode(errors="replace")'),
        ("ready_once", "if kind is Kind.READY and not self.seal.applied:", "if kind is Kind.READY:"),
        ("share_of_a_sealed", "elif kind is Kind.SHARE and self.seal.applied:", "elif kind is Kind.SHARE:"),
        ("sealed_first", "elif kind is Kind.DONE and self.seal.applied:", "elif kind is Kind.DONE:"),
    ),
]  # fmt: skip
