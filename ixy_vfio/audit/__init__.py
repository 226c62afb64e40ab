"""`ixy-vfio audit`: shows whether the IOMMU isolation of this machine holds, by looking at it, and by attacking.

    system.py     everything that is read of a machine: files, links, owners and modes; live
    tree.py       the same from a text file: recorded machines, for tests and bug reports
    config.py     PCI configuration space
    host.py       the machine as objects: devices, groups, command line, modules; reading.py: a file and what it said
    options.py    options of the kernel and of modules, as they take them; unit.py: a systemd unit with its drop-ins
    rights.py     who else than root can write a file, or put another one in its place
    processes.py  who holds what of a device: processes, threads, mappings; sessions.py makes sessions of them
    model.py      Finding, Check, and the decorators that make a function a check
    checks/       the checks: a function each, whose docstring is its page of the documentation
    runner.py     runs them -> Report; report.py: JSON; table.py, html.py, picture.py: for people; compare.py, pages.py
    eeprom.py     reads an EEPROM and writes its digest down (`--record-eeprom`)
    attack/       what attacks need: leases, devices that are told where to do DMA (`--attack`)

Adding a check is adding a function to a file in checks/; nothing else lists it. Standard library only (and cffi for
one check, if it is there): an audit is to be quick, and to run where nothing of the driver does. attack/ alone uses the
driver; it is imported when it is run.
"""
