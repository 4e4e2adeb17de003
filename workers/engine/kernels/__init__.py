"""The arithmetic of adapters and layers: in torch for every device, in C where a compiler is."""
