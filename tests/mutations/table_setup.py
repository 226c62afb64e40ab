"""Setup: whom root trusts."""

# ruff: noqa: E501 - the texts of other files

from tests.mutations.row import rows

ROWS = [
    *rows(
        "trust", "helper/ixy_vfio_setup/trust.py", "tests/unit/test_setup_trust.py",
        ("owner", "if found.st_uid not in trusted:", "if False:"),
        ("link", 'return "" if parent else f"{path} is a symbolic link"', 'return ""'),
        ("everybody", "if found.st_mode & stat.S_IWOTH:", "if False:"),
        ("list", "if found.st_mode & stat.S_IWGRP and _has_list(path):", "if False:"),
        ("group", "if found.st_mode & stat.S_IWGRP and members(found.st_gid) - trusted:", "if False:"),
        ("contents", '(path, *(sorted(path.rglob("*")) if path.is_dir() else ()))', "(path,)"),
        ("way", "return strangers_to((path.parent for path in paths), trusted, top)", 'return ""'),
        ("links_on_the_way", "if at.is_symlink():", "if False:"),
        ("sticky", "if parent and found.st_mode & stat.S_ISVTX:", "if found.st_mode & stat.S_ISVTX:"),
        ("primary_group", "found = {entry.pw_uid for entry in pwd.getpwall() if entry.pw_gid == gid}", "found = set[int]()"),
    ),
]  # fmt: skip
