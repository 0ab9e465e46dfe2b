"""Functions of the kernel that the standard library does not offer, through the C library."""
