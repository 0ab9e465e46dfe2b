"""The cluster as records: watched, parsed, and put together for one decision."""
