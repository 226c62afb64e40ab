"""`ixy-vfio audit DEVICE --attack`: the device itself tries what the isolation must not allow.

    ../checks/attack_*.py   the attacks: a function each, whose docstring is its page of the documentation
    field.py                what they act on: a lease, memory with canaries, an engine; the two verdicts
    engine.py               what every engine does: the device reads, or writes, where it is told
    loopback.py             an engine: a NIC that sends to itself, set up by ixgbe.py or igb.py
    edu.py                  an engine: QEMU's edu device
    places.py               attacks on particular places: read-only memory, a lease that is over, physical memory, ...
    session.py              attacks on the life of a session: drivers that are killed, a helper that is
    run.py                  each attack in a process and a lease of its own, with a deadline

Nothing here has a right that a driver has not: devices and memory come from the helper.
"""
