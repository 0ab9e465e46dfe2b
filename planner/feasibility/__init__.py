"""Which nodes a pod may use, as kube-scheduler's filter plugins decide it. Pure."""
