"""The one filter for all text that is shown and was not written by us.

That is what processes, devices and files are named, lines of the kernel's log, what another program said. Such text can
carry escape sequences to root's terminal, reorder a line, or hide a part of it. Whoever prints or logs it, or makes a
page of it, passes it through `shown` where it is put out. JSON is not filtered: its own escapes do that.
"""

import re

# What Python calls printable although nothing, or only a gap, can be seen of it (Unicode: Default_Ignorable_Code_Point,
# and the blank pattern of Braille).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def shown(text: str) -> str:
    r"""`text` as one line in which everything can be seen: what cannot is written as in Python, like `\x1b` or `\n`.

    That is so for control characters, escape sequences, line ends, bidirectional overrides, characters without width,
    blanks other than the space, and lone surrogates (bytes that are no UTF-8, as the system's names may have them).
    Letters of any script are kept. A backslash is kept too, so filtering twice does no harm.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if one.isprintable() and not _INVISIBLE.match(one) else _escape(one) for one in text)


def shown_lines(text: str) -> list[str]:
    r"""The lines of `text`, each as by `shown`. Lines end with `\n` alone; tabs become spaces."""
    return [shown(line.expandtabs()) for line in text.removesuffix("\n").split("\n")]


def _escape(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")
