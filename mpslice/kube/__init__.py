"""Kubernetes plumbing: a session with deadlines, a reflector, an elector, an event recorder."""
