"""The simulated 82599: a vfio-user server. Imports no driver, and no driver imports it."""
