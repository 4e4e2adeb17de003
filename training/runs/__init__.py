"""One run of the studio, from its task to its report."""
