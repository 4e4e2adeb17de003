"""What crosses a wire or a disk: messages, manifests, failure codes, names. Depends on msgspec only."""
