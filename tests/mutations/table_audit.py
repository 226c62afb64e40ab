"""The audit: each row makes a check see less."""

# ruff: noqa: E501 - the texts of other files

from tests.mutations.row import rows

CHECKS = "ixy_vfio/audit/checks"
TESTS = "tests/unit/audit/test_mutations.py"

ROWS = [
    *rows(
        "audit_kernel", f"{CHECKS}/kernel.py", TESTS,
        ("options", 'if options.get(name) != "y"]', "if False]"),
        ("iomem", 'elif host.has_option("iomem", "relaxed"):', "elif False:"),
        ("lockdown", 'elif "[none]" in reading:', "elif False:"),
        ("layers", "    elif lacks:\n        yield warn(f\"missing", "    elif False:\n        yield warn(f\"missing"),
    ),
    *rows(
        "audit_session", f"{CHECKS}/session.py", TESTS,
        ("root", "if 0 in one.uids or one.capabilities or not one.uids]", "if one.capabilities or not one.uids]"),
        ("capabilities", "if 0 in one.uids or one.capabilities or not one.uids]", "if 0 in one.uids or not one.uids]"),
        ("groups", "    elif grouped:\n", "    elif False:\n"),
        ("filter", 'if one.status.get("Seccomp") != "2" or one.status.get("NoNewPrivs") != "1"]', 'if one.status.get("NoNewPrivs") != "1"]'),
        ("new_privileges", ' or one.status.get("NoNewPrivs") != "1"]', "]"),
        ("every_thread", "    threads = [thread for one in session.processes for thread in one.threads]\n    lacks",
         "    threads = [one.threads[0] for one in session.processes]\n    lacks"),
    ),
    *rows(
        "audit_memory", f"{CHECKS}/memory.py", TESTS,
        ("ledger_is_roots", '            yield fail(f"{address}: others than root can change the ledger", *loose)', "            pass"),
        ("extra_mapping", "    if extra:\n", "    if False:\n"),
        ("missing_mapping", "    if missing:\n", "    if False:\n"),
    ),
    *rows(
        "audit_iommu", f"{CHECKS}/iommu.py", TESTS,
        ("passthrough", 'if host.has_option("iommu", "pt") or host.is_on("iommu.passthrough"):', "if False:"),
        ("source_of_interrupts", 'if host.has_option("intremap", "nosid"):', "if False:"),
        ("plain_interrupts", "elif remapped and plain:", "elif False:"),
        ("acs_override", 'if host.option("pcie_acs_override") is not None:', "if False:"),
    ),
    *rows(
        "audit_vfio", f"{CHECKS}/vfio.py", TESTS,
        ("unsafe_interrupts", '        yield fail("allow_unsafe_interrupts is on", *bad)', '        yield passed("off", *bad)'),
        ("noiommu_groups", "    if groups:\n", "    if False:\n"),
        ("tainted", "if int(tainted.value or 0) & TAINT_USER:", "if False:"),
    ),
    *rows(
        "audit_nodes", f"{CHECKS}/nodes.py", TESTS,
        ("held_by_strangers", "    if strangers:\n", "    if False:\n"),
        ("two_sessions", "elif len(sessions) > 1:", "elif False:", "tests/unit/audit/test_sessions.py"),
        ("uio", "    if mapping:\n", "    if False:\n"),
    ),
    *rows(
        "audit_rights", "ixy_vfio/audit/rights.py", f"{TESTS} tests/unit/audit/test_checks.py",
        ("everybody", "    if node.mode & rights:\n", "    if False:\n"),
        ("lists", 'if int(given) & rights and name[0] == "u" and name != "u0":', "if False:"),
        ("links", "if target is not None:", "if False:"),
    ),
    *rows(
        "audit_sessions", "ixy_vfio/audit/sessions.py", "tests/unit/audit/test_strangers.py tests/unit/audit/test_sessions.py",
        ("claims_are_roots", "is None or node.uid or node.mode & 0o022:", "is None:"),
        ("simulator_has_no_device", "if process.holds_device or any(area.is_real_bar for area in process.shown_mappings or ()):", "if False:", "tests/unit/audit/test_mutations.py"),
        ("helper_is_roots", "if one.is_roots and one.pid != 1]", "if one.pid != 1]"),
        ("memory_by_name", "    if not real:  # memory of these names can be made by anybody\n", "    if False:\n"),
    ),
    *rows(
        "shown", "helper/ixy_vfio_helper/shown.py", "tests/unit/test_shown.py",
        ("control_characters", "return \"\".join(one if one.isprintable() and not _INVISIBLE.match(one) else _escape(one) for one in text)",
         "return text"),
        ("invisible", " and not _INVISIBLE.match(one)", ""),
        ("lines", "[shown(line.expandtabs()) for line", "[line.expandtabs() for line"),
    ),
]  # fmt: skip
