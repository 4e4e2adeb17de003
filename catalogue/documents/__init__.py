"""Manifests as people write them: from YAML or TOML to manifests, or to faults with their lines. Tables in CSV, too."""
