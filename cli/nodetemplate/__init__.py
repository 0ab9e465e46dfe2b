"""`kubectl mpslice node-template`: what autoscalers are told about nodes that do not exist yet."""
