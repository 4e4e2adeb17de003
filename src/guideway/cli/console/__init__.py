"""How every command speaks, and how it is interrupted."""
