"""What the command line reads: manifests from files, or a cluster's objects."""
