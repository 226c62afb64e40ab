"""The words around the numbers in docs/performance.md."""

HEAD = """# Performance

*Written by `ixy-vfio bench`; do not edit: run `scripts/bench --output docs` instead.*

What is timed is the loop of `ixy-vfio forward` itself, with its statistics and all its checks: receive, change a byte
of each packet, send, free, in both directions between two ports. Beside it runs the same work in C, in the way of ixy:
a packet buffer is an object of 2 KiB with a header line before its data, taken from a stack for each received packet
and freed for each sent one.
"""

METHOD = """## How it is measured

* Both sides work on the same model of the NIC, stepped in between on the same core. It checks every address and every
  descriptor, writes all bytes of a packet that is received and reads all bytes of one that is sent. Only the
  driver's part is timed, by the processor's cycle counter, around calls that handle 512 packets.
* All sides take turns in every round, in changing order, in one process; a ratio is taken within a round. Given are
  medians, and quartiles, of the rounds' ratios. So a noisy machine moves the times more than the ratios. A comparison
  begins anew several times, in other memory: where the memory lies moves a ratio, too, by a tenth at batch 1.
* What both sides send is compared byte for byte, at several packet sizes and batches, before anything is timed; in the
  timed rounds a digest of every sent byte is kept and compared after each series. A difference ends the run.
* The reference (`ixy_vfio/bench/reference/`) is plain C in three files, compiled when the benchmark runs: with -O3 and
  with -O2, each with and without link-time optimisation, all with -march=native. It was written to be fast.
* The loop counts packets and bytes, and the reference does not: the comparison errs in favour of C there.
* "Python, one call a batch" is `Port.forwarder`: a call forwards one batch. "Three calls" are `Port.receiver`, a kernel
  of `ixy_vfio.kernel`, and `Port.sender`, each of one batch; "three methods" `Port.rx_into`, the kernel, `Port.tx`,
  with "new batches" `Port.rx`. "Loop per packet" is a `for` over the arrays of a batch. All are timed by the clock that
  Python has, and include what Python itself needs for the calls.
* Instructions are those of the driver's part alone, single-stepped; compiled for a fixed CPU, so that the number is the
  same everywhere: `scripts/instructions`. It is the gate of continuous integration; times are not.

To repeat it: `scripts/bench --output DIR` (some minutes; `--quick` about one; `--history FILE` appends a line).
`scripts/bench --quick --check` prints the goals beside what it measures, and ends with status 1 when one is missed. A C
compiler makes the reference; without one it is left out.
"""

FROM_PYTHON = """From Python: a batch by one call, or taken into Python's hands in between, by three. Functions that
are made for their batch once, and called without arguments, cost a third of what methods do:
"""

HAND_OFFS = """Batch 32, slice by slice of the run, from the nearest core to the farthest. A hand-off is the time for a
word to get to the other core and back. A host moves the virtual cores of a guest as it likes: to two threads of one
core, to cores that share a cache, to cores that do not; and that decides as much as the driver does. ns a packet:
"""

TWO_CORES = """The model's work is included, and done by each worker for itself. The other rows say what two
cores are worth on this machine: two workers that share nothing, in C, and two loops that touch no memory. In the same
trials:
"""

CAVEATS = """## What this does not show

* No PCI Express: no latency of DMA, no limit of transactions, no write-combining, no back-pressure.
* No real NIC: no line rate. Here nothing ends at 14.88 Mpps a port, and a NIC does not share the core's caches as the
  model does (the cold rows, with the model on another core, are the other extreme).
* A doorbell is a plain store to memory. On hardware it is an uncached write of some hundred cycles now and then, so
  that what saves doorbells is undervalued here, for both sides.
* How far apart the two cores are moves the cold rows as much as the driver does. And both sides have the device report
  every transmit descriptor (RS): here that is what hands a cache line back (with one report in 32 the forwarder takes
  nearly twice as long), on a NIC it is written over PCI Express, a line of four at a time, and not measured.
* Published numbers stand in the picture for their shape alone: other machine, real NIC, a limit of 29.76 Mpps.
* Instruction counts say nothing of stalls.
* One page size, one kind of CPU and one hypervisor make one run; yours may differ: that is what the benchmark is for.
"""

LAYOUT = """## Why it is layout rather than language

Python is not faster than C. The compiled loop and the C reference come out of compilers of the same kind, and the same
layout written in C would be as fast, or somewhat faster. What makes the difference is what the memory looks like:

* Buffers are numbers, not objects. C's way touches a header line of each packet beside its data: two cache lines a
  packet instead of one, and a pointer to follow before the next load can start.
* A stride of 2112 bytes instead of 2048. With a power of two all packets share 1/32 of the sets of the first cache.
* Blocks of 32 descriptors that never wrap: buffers are renewed and freed, and bytes counted, a block at a time, by
  vector instructions; one report a block is looked at.
* One pass: each packet goes from its receive descriptor through the kernel to its transmit descriptor, with the state
  of both queues in registers, and no array of packets is written and read in between. C's way has that array.

`docs/datapath.md` says what each is worth.

So read the ratios as "this layout, in Python, beside that layout, in C". That Python does not stand in the way of it
is the point.
"""
