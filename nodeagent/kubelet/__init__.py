"""The kubelet as the agent meets it: the device plugin, PodResources, its checkpoint."""
