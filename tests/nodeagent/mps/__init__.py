"""The MPS supervisor and the agent's side of it, with NVIDIA's own control program."""
