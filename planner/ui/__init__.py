"""The planner's web page: one HTML file, and the events that keep it up to date. Read-only."""
