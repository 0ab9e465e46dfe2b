"""From the slices that stand to the layout that is wanted."""
