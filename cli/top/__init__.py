"""`kubectl mpslice top`: the GPU memory that is used beside what was asked for."""
