"""A proof, on a GPU that nobody uses, of what mpslice says of MPS. It needs the driver, Python and
pynvml, and of the project nothing that is heavy; `python3 -m nodeagent.verify` runs it."""
