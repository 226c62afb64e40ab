"""The data path, compiled: rings, loop, batches, pool, kernels. It knows no bit of a descriptor."""
