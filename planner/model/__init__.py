"""The records that planning knows: frozen, no Kubernetes JSON any more."""
