"""Protobuf messages of endpoints: their descriptors in manifests, and classes made of these."""
