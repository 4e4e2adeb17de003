"""What crosses a wire or a disk: messages, manifests, failure codes, names. Depends on msgspec only.

`protobuf/` depends on protobuf, and is imported where that is spoken.
"""
