"""The API server as the agent meets it: what it watches there, and what it reports."""
