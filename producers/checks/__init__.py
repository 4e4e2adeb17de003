"""What can be said of manifests before they are applied."""
