"""The isolation as a picture (SVG): processes -> device, in its group -> bridges -> IOMMU -> memory.

Four columns; a session is a band across them, and so is a device that nobody uses. The colour of a frame is the worst
that was found of it. Classes, not colours, stand here: the page's style sheet has a light and a dark set.
"""

from collections.abc import Mapping, Sequence
from html import escape

from ixy_vfio_helper.shown import shown

from ixy_vfio.audit.model import Status
from ixy_vfio.audit.report import Report
from ixy_vfio.audit.scene import DeviceBox, ProcessBox, SessionBox

WIDTH, LINE, GAP, PAD = 1180, 17, 16, 12
PROCESSES, DEVICES, IOMMU, MEMORY = (16, 340), (440, 250), (780, 44), (900, 264)  # columns: x, width
LETTERS = 7.0  # pixels a letter takes
BAR_SIZE = 0x80000  # of the strip: BAR 0 of an 82599


def escaped(text: str) -> str:
    """Text of a stranger as it may stand in the page."""
    return escape(shown(text))


class Canvas:
    """Collects SVG elements."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """A rectangle with round corners."""
        self.parts.append(f'<rect class="{style}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')

    def text(self, x: float, y: float, text: str, style: str = "", width: float = 0) -> None:
        """One line, cut to `width` pixels; the whole of it shows when it is pointed at."""
        text = shown(text)
        more = ""
        if width and len(text) * LETTERS > width:
            more = f"<title>{escaped(text)}</title>"
            text = text[: int(width / LETTERS) - 1] + "…"
        self.parts.append(f'<text class="{style}" x="{x}" y="{y}">{escaped(text)}{more}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A curve from left to right."""
        middle = (x1 + x2) / 2
        self.parts.append(f'<path class="{style}" d="M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"/>')

    def lines(self, x: float, y: float, width: float, lines: Sequence[tuple[str, str]]) -> None:
        """Lines of text, each (style, text), from the top."""
        for number, (style, text) in enumerate(lines):
            self.text(x, y + LINE * (number + 1), text, style, width)


def draw(report: Report) -> str:
    """The whole picture."""
    canvas = Canvas()
    worst: dict[str, Status] = {}
    for result in report.results:
        worst[result.subject] = max(result.status, worst.get(result.subject, Status.PASS))
    devices = {device.address: device for device in report.scene.devices}
    for (x, _), title in zip(
        (PROCESSES, DEVICES, IOMMU, MEMORY),
        ("Processes", "Devices, by IOMMU group", "IOMMU", "What a device reaches by DMA"),
        strict=True,
    ):
        canvas.text(x, 22, title, "title")
    y = 36.0
    for session in report.scene.sessions:
        y = _session(canvas, y, session, devices, worst) + GAP
    used = {address for session in report.scene.sessions for address in session.devices}
    for device in report.scene.devices:
        if device.address not in used:
            canvas.text(PROCESSES[0], y + LINE, "used by nobody that the audit could see", "dim")
            y = _device(canvas, y, device, worst, False) + GAP
    if y == 36.0:
        canvas.text(PROCESSES[0], y + LINE, "No device is driven, or ready to be driven, from user space.", "dim")
        y += 3 * LINE
    _iommu(canvas, y - GAP, report.scene.iommus)
    head = f'<svg viewBox="0 0 {WIDTH} {y}" role="img" aria-label="picture of the isolation">'
    return head + "".join(canvas.parts) + "</svg>"


def _iommu(canvas: Canvas, bottom: float, names: Sequence[str]) -> None:
    x, width = IOMMU
    style = "wall" if names else "nowall"
    canvas.parts.insert(0, f'<rect class="{style}" x="{x}" y="36" width="{width}" height="{bottom - 36}"/>')
    canvas.text(x, bottom + 13, ", ".join(names) if names else "none", "dim" if names else "FAIL")


def _session(
    canvas: Canvas, y: float, session: SessionBox, devices: Mapping[str, DeviceBox], worst: Mapping[str, Status]
) -> float:
    x, width = PROCESSES
    simulated = "simulated" in session.kind
    level = f"isolation level {session.level}" if session.level else "isolation level unknown: workers are hidden"
    canvas.text(x, y + LINE, f"{session.kind}{'' if simulated else ', ' + level}", "dim", width)
    left, right = y + LINE + 8, y + LINE + 8
    anchors = []
    for address in session.devices:
        device = devices.get(address) or DeviceBox(address, "simulated", "none", "", [], [], [])
        anchors.append(right + 26)
        right = _device(canvas, right, device, worst, simulated) + GAP
    for process in session.processes:
        bottom = _process(canvas, left, process, worst.get(session.name, Status.PASS))
        for anchor in anchors:
            if style := _hold(process):
                canvas.line(x + width, left + 14, DEVICES[0], anchor, style)
        left = bottom + GAP
    return max(left, right) - GAP


def _hold(process: ProcessBox) -> str:
    """How a process reaches the device: all of it, pages of it, or not at all."""
    if any(what.startswith(("vfio-device", "/dev/vfio/")) for what in process.fds or []):
        return "holds"
    return "maps" if process.bar else ""


def _process(canvas: Canvas, y: float, process: ProcessBox, worst: Status) -> float:
    """A process; returns where it ends."""
    x, width = PROCESSES
    uids = ", ".join(map(str, process.uids))
    ranges = sorted(set(process.bar or []))
    lines = [
        ("head", f"{process.role}: {process.name}, pid {process.pid}, uid {uids}"),
        ("", f"fds: {_or_hidden(process.fds)}"),
        ("", f"packet memory: {_or_hidden(_memory(process.memory))}"),
        ("", f"registers: {_or_hidden(None if process.bar is None else _together(ranges))}"),
    ]
    height = LINE * len(lines) + PAD + (16 if ranges else 4)
    canvas.box(x, y, width, height, f"box {process.role} {worst.name if process.role != 'helper' else 'PASS'}")
    canvas.lines(x + 10, y, width - 20, lines)
    if ranges:
        style = "mapped all" if _hold(process) == "holds" else "mapped"
        _strip(canvas, x + 10, y + LINE * len(lines) + 9, width - 20, ranges, style)
    return y + height


def _or_hidden(items: Sequence[str] | None) -> str:
    return "hidden from this user" if items is None else ", ".join(items) or "none"


def _memory(size: int | None) -> list[str] | None:
    return None if size is None else [f"{size / (1 << 20):.1f} MiB"] if size else []


def _together(ranges: Sequence[str]) -> list[str]:
    """The name of a BAR only once."""
    bars = dict.fromkeys(one.partition(" ")[0] for one in ranges)
    return [f"{bar} {', '.join(one.partition(' ')[2] for one in ranges if one.startswith(f'{bar} '))}" for bar in bars]


def _strip(canvas: Canvas, x: float, y: float, width: float, ranges: Sequence[str], style: str) -> None:
    """BAR 0 to scale; what is mapped is filled."""
    canvas.parts.append(f'<rect class="strip" x="{x}" y="{y}" width="{width}" height="9"/>')
    places = [one.partition(" ")[2].split("-") for one in ranges if one.startswith("BAR0 ")]
    parts = [(int(first, 16), int(last, 16) + 1) for first, last in places]
    scale = width / max([BAR_SIZE, *(end for _, end in parts)])
    for first, end in parts:
        left, wide = x + first * scale, max((end - first) * scale, 2.0)
        canvas.parts.append(f'<rect class="{style}" x="{left:.1f}" y="{y}" width="{wide:.1f}" height="9"/>')


def _device(canvas: Canvas, y: float, device: DeviceBox, worst: Mapping[str, Status], simulated: bool) -> float:
    """A device in its group, its bridges, and what it reaches; returns where it ends."""
    x, width = DEVICES
    lines = [("head", device.address), ("", f"{device.ids}, driver {device.driver}")]
    if simulated:
        lines = [("head", device.address), ("", "simulated 82599")]
    inner = LINE * len(lines) + PAD
    neighbours = [("dim", f"with {one.removeprefix('0000:')}") for one in device.neighbours]
    height = inner + LINE * (len(neighbours) + 1) + PAD
    canvas.box(x, y, width, height, "group")
    canvas.lines(x + 8, y, width - 16, [("dim", f"group {device.group}" if device.group else "no IOMMU group")])
    canvas.box(x + 6, y + LINE + 6, width - 12, inner, f"box {worst.get(device.address, Status.PASS).name}")
    canvas.lines(x + 14, y + LINE + 6, width - 28, lines)
    canvas.lines(x + 8, y + LINE + 6 + inner, width - 16, neighbours)
    middle = y + LINE + 6 + inner / 2
    if simulated:
        canvas.line(x + width, middle, MEMORY[0], middle, "dma free")
        canvas.text(x + width + 6, middle - 6, "by the simulator, in software", "dim")
        reach = [("", "memory of the session"), ("dim", "no IOMMU is involved")]
    else:
        canvas.line(x + width, middle, IOMMU[0], middle, "dma" if device.group else "dma free")
        label = " > ".join(address.removeprefix("0000:") for address in device.bridges) or "no bridge"
        canvas.text(x + width + 6, middle - 6, label, "dim", IOMMU[0] - x - width - 8)
        reach = _reach(device)
        canvas.line(IOMMU[0] + IOMMU[1], middle, MEMORY[0], middle, "dma" if device.group else "dma free")
    tall = max(LINE * len(reach) + PAD, 30)
    canvas.box(MEMORY[0], y + 6, MEMORY[1], tall, "box memory" if device.group or simulated else "box FAIL")
    canvas.lines(MEMORY[0] + 8, y + 6, MEMORY[1] - 16, reach)
    return y + max(height, tall + 6)


def _reach(device: DeviceBox) -> list[tuple[str, str]]:
    if not device.group:
        return [("head", "all memory"), ("dim", "nothing is between")]
    if not device.iova:
        return [("", "what its domain maps"), ("dim", "no ledger of it")]
    return [("", one) for one in device.iova] + [("dim", "nothing else")]
