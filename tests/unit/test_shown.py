"""The filter for text of strangers: nothing that acts on a terminal, or that cannot be seen, gets through."""

import subprocess
import sys
import unicodedata

import pytest
from ixy_vfio_helper.shown import shown, shown_lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ""),
        ("ixy-fwd 03:00.0", "ixy-fwd 03:00.0"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # a control sequence by one character
        ("one\ntwo\r\x0b\x0c\x85\u2028\u2029\ttab", r"one\ntwo\r\x0b\x0c\x85\u2028\u2029\ttab"),
        ("\u202egpj.exe\u2066\u200e", r"\u202egpj.exe\u2066\u200e"),
        ("ro\u200bot\ufeff\u2060\u00ad", r"ro\u200bot\ufeff\u2060\xad"),
        ("a\u3164\u115f\u2800\u034f\ufe0fb", r"a\u3164\u115f\u2800\u034f\ufe0fb"),
        ("\u00a0\u3000\u2003", r"\xa0\u3000\u2003"),
        ("\udc9b\ud800", r"\udc9b\ud800"),
        ("\U000e0041\U000e0100", r"\U000e0041\U000e0100"),
        ("\ue000\U0010ffff\u0378", r"\ue000\U0010ffff\u0378"),  # private use, no character, not assigned
        ("Gerät 東京 ελ 😀 é", "Gerät 東京 ελ 😀 é"),
        (r"C:\temp \x1b", r"C:\temp \x1b"),
        ("\x7f\x00", r"\x7f\x00"),
    ],
)
def test_what_is_shown(text: str, said: str) -> None:
    assert shown(text) == said
    assert shown(said) == said


def test_of_every_character_only_what_can_be_seen_is_left() -> None:
    kept = {unicodedata.category(one) for one in map(chr, range(sys.maxunicode + 1)) if shown(one) == one}
    assert not kept & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert [
        one for one in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(one) == "Zs" and shown(one) == one
    ] == [" "]
    assert all(shown(chr(code)).encode() for code in range(sys.maxunicode + 1))  # it can be printed


def test_lines() -> None:
    assert shown_lines("a\tb\n\x1bc\rd\x85e\n") == ["a       b", r"\x1bc\rd\x85e"]
    assert shown_lines("") == [""]


def test_the_helper_logs_and_says_it_filtered(capfd: pytest.CaptureFixture[str]) -> None:
    """A message is one line, a traceback has its own; what a command says or complains of may have several."""
    program = """
import logging
from ixy_vfio_helper.ending import complain, say
from ixy_vfio_helper.logs import log_shown
log_shown("helper: %(message)s")
logging.info("driver %s", "\\x1b[2J\\nhelper: lease ended")
try:
    raise OSError("\\x1b]0;t\\x07")
except OSError:
    logging.exception("failed")
say("uplink0\\u202e\\nsecond")
complain("setup", "eth\\x1b0\\nsecond")
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    out, err = capfd.readouterr()
    assert out == "uplink0\\u202e\nsecond\n"
    assert err.splitlines()[:2] == [r"helper: driver \x1b[2J\nhelper: lease ended", "helper: failed"]
    assert err.splitlines()[-3:] == [r"OSError: \x1b]0;t\x07", r"setup: eth\x1b0", "setup: second"]
