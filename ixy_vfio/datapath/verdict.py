"""What a kernel says of a packet. A Boolean is the shortest verdict: True is SEND, False is DROP."""

DROP = 0
SEND = 1  # to where the program's way leads: a forwarder's other port
RETURN = 2  # to the port that it came from
WRONG = "a kernel returns True, False or a verdict: DROP (0), SEND (1), RETURN (2)"
