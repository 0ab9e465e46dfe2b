"""`kubectl mpslice plan`: the webhook's and the planner's own decisions on manifests."""
