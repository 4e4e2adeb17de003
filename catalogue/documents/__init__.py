"""Manifests as people write them: YAML or TOML in, manifests or faults with their lines out."""
