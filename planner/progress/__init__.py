"""A pod's way to its slice: its states, their deadlines, and what of them a restart must know."""
