"""From a run to the catalogue: what is published, and on which condition."""
