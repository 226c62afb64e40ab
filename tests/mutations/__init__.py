"""The table of protections: what each is, where it stands, and which tests must notice when it is gone.

The rows are in the other files of this directory, one file an area. `python -m tests.mutations --help` runs them.
"""
