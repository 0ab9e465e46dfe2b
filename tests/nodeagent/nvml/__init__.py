"""An NVML for tests: a C library that real pynvml binds, and the file that drives it."""
