"""The proof, tried on stand-ins for CUDA that hold to what MPS promises, and that do not."""
