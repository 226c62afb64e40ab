"""The drivers. `contract.py` says what one must provide; a package each; `intel.py` is what Intel's families share."""
