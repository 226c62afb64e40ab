"""What the command prints, writes and returns."""

import dataclasses
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from ixy_vfio_helper.shown import shown

from ixy_vfio.audit import compare, html, pages, report, table, tree
from ixy_vfio.audit.model import CHECKS
from ixy_vfio.audit.tree import Tree
from ixy_vfio.cli import main
from ixy_vfio.core.errors import UsageError
from tests.unit.audit.audit_support import HERE, edit, link, look, machine, write

DOCS = HERE.parents[2] / "docs" / "audit"
MACHINES = ["sound", "intel-desktop", "hpe-rmrr", "amd-epyc", "cloud-vm"]
TYPES = {"string": str, "integer": int, "object": dict, "list": list, "null": type(None)}


def recorded(name: str) -> str:
    return str(HERE / "trees" / f"{name}.tree")


# -- JSON


def fields(value: Any, path: str = "") -> dict[str, list[Any]]:
    """Every field with its values; `[]` stands for the members of a list."""
    found: dict[str, list[Any]] = {path: [value]} if path and not path.endswith("[]") else {}
    members: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        members = [(f"{path}.{key}".lstrip("."), one) for key, one in value.items()]
    elif isinstance(value, list):
        members = [(f"{path}[]", one) for one in value]
    for name, one in members:
        for key, values in fields(one, name).items():
            found.setdefault(key, []).extend(values)
    return found


def test_the_schema_names_every_field_and_its_type() -> None:
    documented = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", (DOCS / "schema.md").read_text(), re.MULTILINE))
    seen: dict[str, list[Any]] = {}
    for name in MACHINES:
        for key, values in fields(look(machine(name)).to_json()).items():
            seen.setdefault(key, []).extend(values)
    assert set(seen) == set(documented)
    for key, values in seen.items():
        types = [TYPES[word.split(" of ")[0]] for word in documented[key].strip().split(" or ")]
        assert {type(value) for value in values} <= set(types), key


@pytest.mark.parametrize("name", MACHINES)
def test_json_is_read_back(name: str) -> None:
    before = look(machine(name))
    after = report.from_json(json.loads(json.dumps(before.to_json())))
    assert after == dataclasses.replace(before, results=before.worst_first)


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 2}', '{"schema": 1, "results": 4}', "null"])
def test_json_that_is_no_report(text: str) -> None:
    with pytest.raises(UsageError):
        report.from_json(json.loads(text))


# -- page


class Strict(HTMLParser):
    """Every element is closed; nothing is fetched from anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href"} & {name for name, _ in attrs}
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", MACHINES)
def test_the_page_is_whole_and_needs_nothing_else(name: str) -> None:
    found = look(machine(name))
    page = html.render(found)
    parser = Strict()
    parser.feed(page)
    assert parser.open == []
    assert parser.seen.count("details") == len(found.results)
    assert "url(" not in page
    assert "script" not in parser.seen


def test_the_picture_shows_processes_devices_and_ranges() -> None:
    page = html.render(look(machine("sound")))
    svg = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    texts = ["".join(element.itertext()) for element in svg.iter("text")]
    for text in (
        "helper: python3, pid 901, uid 0", "control: python3, pid 1200, uid 1000",
        "worker: python3, pid 1201, uid 1000",
        "registers: BAR0 0x1000-0x1fff, 0x6000-0x7fff", "group 26", "0000:03:00.1", "00:02.0", "dmar0",
        "0x1000000000, 2 MiB: rw packets", "0x1000600000, 8 KiB: rw rings",
    ):  # fmt: skip
        assert text in texts
    styles = [element.get("class") for element in svg.iter("path")]
    assert (styles.count("holds"), styles.count("maps"), styles.count("dma")) == (4, 4, 4)


def test_names_from_the_machine_are_escaped() -> None:
    found = machine("hpe-rmrr")
    edit(found, "/proc/4711/status", "dpdk-testpmd", "<script>")
    page = html.render(look(found))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


EVIL = "\x1b]0;x\x07\x1b[2J\u202e\u200b\x9b\nPASS"


def named_by_a_stranger() -> Tree:
    """A machine on which all that a stranger can name is named so that it acts on a terminal."""
    found = machine("hpe-rmrr")
    edit(found, "/proc/4711/status", "dpdk-testpmd", EVIL.replace("\n", " "))
    for fd, what in enumerate((f"/tmp/{EVIL}\udcff", f"/dev/shm/{EVIL}", "/dev/mem"), 90):
        link(found, f"/proc/4711/fd/{fd}", what)
    write(found, "/proc/4711/cmdline", EVIL)
    write(found, "/proc/sys/kernel/osrelease", f"6.8.0-{EVIL}")
    write(found, "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", f"{EVIL}=Y")
    return found


def test_what_a_stranger_named_reaches_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = look(named_by_a_stranger())
    lines = list(table.render(found, width=2000, verbose=True))
    assert all(line == shown(line) for line in lines)
    assert any(r"\x1b]0;x\x07\x1b[2J\u202e\u200b\x9b" in line for line in lines)
    page = html.render(found)
    assert all(line == shown(line) for line in page.split("\n"))
    assert r"\x1b]0;x\x07" in page
    path = tmp_path / "evil.json"
    path.write_text(json.dumps(found.to_json()))
    assert report.from_json(json.loads(path.read_text())).results == found.worst_first
    assert path.read_text().isascii()
    assert "\\x1b" not in path.read_text()  # raw: as JSON writes it
    run("--compare", str(path), str(path))
    said = capsys.readouterr().out
    assert [line for line in said.split("\n") if line != shown(line)] == []


def test_an_error_that_quotes_a_stranger(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--replay", "/no\x1b[2J") == 2
    assert capsys.readouterr().err == "ixy-vfio audit: /no\\x1b[2J: No such file or directory\n"


# -- table


def test_the_table_has_a_line_a_check_the_worst_first() -> None:
    found = look(machine("hpe-rmrr"))
    lines = [line for line in table.render(found, width=90) if line[:4] in ("FAIL", "WARN", "SKIP", "PASS")]
    assert len(lines) == len(found.results)
    order = [["FAIL", "WARN", "SKIP", "PASS"].index(line[:4]) for line in lines]
    assert order == sorted(order)
    assert max(map(len, lines)) <= 90


def test_details_have_evidence_reason_and_remedy() -> None:
    text = "\n".join(table.render(look(machine("hpe-rmrr")), verbose=True))
    assert "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts: Y" in text
    assert "Why: with it, devices are handed out" in text
    assert "Fix: remove the option from /etc/modprobe.d" in text


# -- pages


def test_the_pages_in_docs_are_those_of_the_checks(tmp_path: Path) -> None:
    pages.write(tmp_path)
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    there = {path.name: path.read_text() for path in DOCS.glob("*.md") if path.name != "schema.md"}
    assert there == written, "run: python -m ixy_vfio.audit.pages docs/audit"
    assert set(written) == {f"{name}.md" for name in CHECKS} | {"README.md"}


# -- command


def run(*words: str) -> int:
    return main(["audit", *words])


def test_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--replay", recorded("sound")) == 0
    assert run("--replay", recorded("sound"), "--fail-on", "warn") == 0
    assert run("--replay", recorded("amd-epyc")) == 0
    assert run("--replay", recorded("amd-epyc"), "--fail-on", "warn") == 1
    assert run("--replay", recorded("hpe-rmrr"), "04:00.0") == 1
    assert run("--replay", recorded("hpe-rmrr"), "--fail-on", "high") == 1
    assert run("--replay", recorded("sound"), "09:00.0") == 2
    assert run("--replay", "/nowhere") == 2
    assert "ixy-vfio audit: /nowhere: No such file or directory" in capsys.readouterr().err


def test_nothing_to_look_at(tmp_path: Path) -> None:
    empty = tmp_path / "empty.tree"
    empty.write_text("uid 0\n")
    assert run("--replay", str(empty)) == 2


def test_json_and_page_are_written(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("--replay", recorded("sound"), "--json", "--html", str(tmp_path / "page.html")) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == {"FAIL": 0, "WARN": 0, "SKIP": 0, "PASS": 58}
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert run("--replay", recorded("sound"), "--html", str(tmp_path / "no" / "page.html")) == 2


def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--explain", "device.acs") == 0
    assert capsys.readouterr().out == (DOCS / "device.acs.md").read_text()
    assert run("--explain", "acs") == 2
    assert re.search(r"acs: no such check; there are .*device\.acs", capsys.readouterr().err)


def test_compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = machine("sound")
    write(broken, "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y")
    write(broken, "/proc/sys/kernel/tainted", "64")
    paths = []
    for name, one in (("before", machine("sound")), ("after", broken)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(look(one).to_json()))
        paths.append(str(path))
    assert run("--compare", *paths) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "worse   PASS -> FAIL  vfio.unsafe_interrupts  allow_unsafe_interrupts is on",
        "worse   PASS -> WARN  vfio.noiommu  the kernel is tainted by a request of user space (U), "
        "as no-IOMMU mode does",
        "2 changed, 56 the same",
    ]
    assert run("--compare", *reversed(paths)) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("better  FAIL -> PASS  vfio.unsafe_interrupts")
    assert run("--compare", paths[0], str(tmp_path / "none.json")) == 2


def test_compare_of_other_subjects() -> None:
    before, after = look(machine("hpe-rmrr"), "05:00.0"), look(machine("hpe-rmrr"))
    changes = compare.compare(before, after)
    assert {change.after.subject for change in changes if change.after} == {"0000:04:00.0"}
    assert all(change.worse for change in changes)
    assert all(not change.worse for change in compare.compare(after, before))


def test_recording_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "this.tree"
    assert run("--record", str(path), "--json") in (0, 1)
    live = json.loads(capsys.readouterr().out)
    assert run("--replay", str(path), "--json") in (0, 1)
    again = json.loads(capsys.readouterr().out)
    assert tree.load(path.read_text()).uid == live["uid"]
    assert again["kernel"] == live["kernel"]
    found = [[(one["check"], one["subject"], one["status"]) for one in report["results"]] for report in (again, live)]
    assert found[0] == found[1]


def test_the_audit_of_this_machine_loads_nothing_heavy_and_ends_in_order() -> None:
    program = (
        "import sys; from ixy_vfio.cli import main; status = main(['audit']); "
        "heavy = ('numba', 'numpy', 'pyroute2', 'ixy_vfio.drivers.contract'); "
        "print(*(name for name in heavy if name in sys.modules), file=sys.stderr); "
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (0, 1)
    assert done.stderr == "\n"
    assert " iommu.present " in done.stdout
