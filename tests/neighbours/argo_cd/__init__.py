"""The chart as an Application of Argo CD."""
