"""Which endpoints, guidance and models exist: a compacted topic held in memory; artefacts in an object store."""
