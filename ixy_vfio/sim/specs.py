"""What can be written behind --cable, as people read it. Apart from the code, which takes long to load."""

CABLES = """\
cables:
  0:port:1              the two ports back to back
  0:tap:NAME            a TAP interface
  0:packet:IFNAME       a packet socket on an interface (a veth end, say)
  0:fd:N                an inherited packet socket or TAP file descriptor
  0:pcapng:IN,OUT       frames from a capture (pcapng, pcap, or one of them by gzip), and into one (pcapng); either
                        may be left out
  0:gen:KEY=VALUE,...   a generator, and a sink for what the port sends

keys of gen:
  count=N         frames to send; 0 for a sink alone; left out: without end
  sizes=A or A-B  length without CRC, 60 at least; a range is mixed, by the sequence number
  pace=fit        never offer a frame that the port could not buffer: nothing is lost on the way in (the default)
  pace=max        as fast as the model goes; what the port cannot take it drops and counts
  pace=wire       10 Gbit/s with preamble and gap
  pace=R          R million frames a second; wire and R wait for an open receive queue
  seed=N          of pattern and lengths
  streams=N       UDP source ports in turn, so that RSS spreads them
  dst=MAC         destination address; left out: the port's own (RAL 0)
  expect=PORT     the sink checks what the generator of that port has sent
  touched=N       one byte that is not compared: the application changes it
"""
