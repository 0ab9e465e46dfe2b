"""Admission: completes slice pods, and refuses the ones that could not work, saying why.

`policy` and what it imports are pure and serve the offline plan too; `server` and `main` are the
edge.
"""
