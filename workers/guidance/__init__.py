"""A request's trained guidance, from its name and version to files on this machine."""
