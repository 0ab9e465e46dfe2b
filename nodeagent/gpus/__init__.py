"""The GPUs of this node: what the driver tells, their health, and who else has a say in them."""
