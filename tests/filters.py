"""What a seccomp filter says of a call."""


def run_filter(program: bytes, number: int, arguments: tuple[int, ...], architecture: int = 0xC000003E) -> int:
    """A second reading of the machine that the kernel has for these programs (linux/filter.h)."""
    data = [number, architecture, 0, 0]
    for word in arguments:
        data += [word & 0xFFFFFFFF, word >> 32 & 0xFFFFFFFF]
    steps = [program[i : i + 8] for i in range(0, len(program), 8)]
    a = at = 0
    while True:
        code, yes, no = int.from_bytes(steps[at][:2], "little"), steps[at][2], steps[at][3]
        k = int.from_bytes(steps[at][4:], "little")
        at += 1
        if code == 0x20:
            a = data[k // 4]
        elif code == 0x54:
            a &= k
        elif code == 0x15:
            at += yes if a == k else no
        elif code == 0x35:
            at += yes if a >= k else no
        elif code == 0x06:
            return k
        else:
            raise AssertionError(f"code {code:#x}")
