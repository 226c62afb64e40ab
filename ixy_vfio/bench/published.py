"""Numbers that others have published, to stand beside the measured ones. They are of other machines and a real NIC."""

from typing import Any

# Forwarding on one core at 3.3 GHz, two ports of 10 Gbit/s, 60-byte packets, by batch size.
PUBLISHED: dict[str, Any] = {
    "source": "Emmerich et al., The Case for Writing Network Drivers in High-Level Programming Languages (ANCS 2019)",
    "batch": 32,
    "mpps": {
        "Rust": 27.6,
        "C": 27.4,
        "C#": 23.0,
        "Go": 20.6,
        "OCaml": 10.9,
        "Haskell": 9.6,
        "JavaScript": 5.0,
        "Swift": 4.8,
        "Python": 0.14,
    },
    "mpps_256": {"Python": 0.16},
}
