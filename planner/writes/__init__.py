"""What the planner does to the cluster: actions as data, and how they are carried out."""
