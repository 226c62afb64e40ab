"""A report as one page that needs nothing else: the picture, then the table with its details."""

from collections.abc import Iterator

from ixy_vfio_helper.shown import shown_lines

from ixy_vfio.audit import picture
from ixy_vfio.audit.model import CHECKS
from ixy_vfio.audit.picture import escaped
from ixy_vfio.audit.report import Report, Result
from ixy_vfio.audit.table import sessions, summary

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --dim: #656d76; --paper: #fff; --card: #f6f8fa; --edge: #d0d7de;
  --FAIL: #cf222e; --WARN: #9a6700; --SKIP: #6e7781; --PASS: #1a7f37; --wall: #8250df; --dma: #0969da }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #8d96a0; --paper: #0d1117; --card: #161b22;
  --edge: #30363d; --FAIL: #ff7b72; --WARN: #d29922; --SKIP: #8d96a0; --PASS: #3fb950; --wall: #a371f7;
  --dma: #58a6ff } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1200px;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
.dim, .note { color: var(--dim); fill: var(--dim) }
.counts span { display: inline-block; margin: .8rem .6rem 0 0; padding: .1rem .7rem; border: 1px solid;
  border-radius: 1rem }
.FAIL { color: var(--FAIL) } .WARN { color: var(--WARN) } .SKIP { color: var(--SKIP) } .PASS { color: var(--PASS) }
svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--edge); border-radius: 8px }
svg text { font: 11.5px ui-monospace, monospace; fill: var(--ink) } svg text.dim { fill: var(--dim) }
svg text.head { font-weight: 700 } svg text.title { font: 600 13px system-ui, sans-serif }
svg text.FAIL { fill: var(--FAIL) }
svg .box { fill: var(--paper); stroke: var(--edge); stroke-width: 1.5 } svg .helper { stroke-dasharray: 6 3 }
svg .box.FAIL { stroke: var(--FAIL); stroke-width: 2.5 } svg .box.WARN { stroke: var(--WARN); stroke-width: 2 }
svg .box.PASS { stroke: var(--PASS) } svg .memory { stroke: var(--dma) }
svg .group { fill: none; stroke: var(--wall); stroke-dasharray: 3 3 }
svg .wall { fill: var(--wall); opacity: .25 } svg .nowall { fill: none; stroke: var(--FAIL); stroke-dasharray: 8 6 }
svg path { fill: none; stroke-width: 1.6 } svg .holds { stroke: var(--WARN); stroke-width: 2.2 }
svg .maps { stroke: var(--PASS) }
svg .dma { stroke: var(--dma) } svg .free { stroke: var(--FAIL); stroke-dasharray: 5 4 }
svg .strip { fill: var(--card); stroke: var(--edge) } svg .mapped { fill: var(--PASS) }
svg .all { fill: var(--WARN) }
details { border-top: 1px solid var(--edge); padding: .35rem 0 } summary { cursor: pointer; display: grid;
  grid-template-columns: 3.2rem 14.5rem 1fr; gap: .6rem; align-items: baseline } summary::marker { content: "" }
summary b { font-size: .85rem } code, pre { font: 13px/1.45 ui-monospace, monospace }
details > div { margin: .4rem 0 .6rem 3.8rem } pre { background: var(--card); padding: .5rem .7rem; overflow-x: auto;
  max-height: 16rem; margin: .2rem 0 .6rem; border-radius: 6px; white-space: pre-wrap }
""".strip()

LEGEND = (
    "Thick line: holds the device, so all of its registers. Thin line: has mapped pages of them (the strip is BAR 0, "
    "to scale). Dotted frame: an IOMMU group. Blue: DMA, through the bridges named on it."
)


def render(report: Report) -> str:
    """The page."""
    return "\n".join(_page(report)) + "\n"


def _page(report: Report) -> Iterator[str]:
    title = f"Audit of {escaped(report.target)}"
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield f'<meta name="viewport" content="width=device-width"><style>\n{STYLE}\n</style></head><body>'
    who = "root" if report.uid == 0 else f"uid {report.uid}, who does not see everything"
    yield f'<h1>{title}</h1><div class="note">Linux {escaped(report.kernel)}, {escaped(report.time)}, as {who}</div>'
    chips = (f'<span class="{name}">{count} {name}</span>' for name, count in report.counts.items())
    yield f'<div class="counts">{"".join(chips)}</div>'
    yield "<h2>The isolation</h2>"
    yield from (f'<div class="note">{escaped(line)}</div>' for line in sessions(report))
    yield f'{picture.draw(report)}<div class="note">{LEGEND}</div>'
    yield "<h2>Checks, the worst first</h2>"
    for result in report.worst_first:
        yield from _row(result)
    yield "</body></html>"


def _row(result: Result) -> Iterator[str]:
    name, status = escaped(result.check), result.status.name
    where = f"{escaped(result.subject)}: " if result.subject else ""
    yield f'<details><summary><b class="{status}">{status}</b><code>{name}</code>'
    yield f"<span>{where}{escaped(summary(result))}</span></summary><div>"
    yield f"<div>{escaped(result.title)}. Severity: {result.severity.name.lower()}.</div>"
    for finding in result.findings:
        if len(result.findings) > 1:
            yield f'<div class="{finding.status.name}">{escaped(finding.text)}</div>'
        for reading in finding.evidence:
            value = "(not there)" if reading.value is None else reading.value or "(empty)"
            lines = "\n".join(map(escaped, shown_lines(value)))
            yield f"<code>{escaped(reading.path)}</code><pre>{lines}</pre>"
    if check := CHECKS.get(result.check):
        yield f"<p><b>Why it matters.</b> {escaped(check.why)}</p><p><b>What to do.</b> {escaped(check.remedy)}</p>"
    yield "</div></details>"
