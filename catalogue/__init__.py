"""Which endpoints, guidance and models exist: a compacted topic, materialised in memory; artefacts in an object store."""
