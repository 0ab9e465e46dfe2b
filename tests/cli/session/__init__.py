"""A session with the plugin on a cluster in use, recorded in docs/session.md and played again.

`python -m tests.cli.session` records it anew.
"""
