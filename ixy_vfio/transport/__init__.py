"""How a device is reached: through the kernel, or through a socket. Drivers see `base` alone."""
