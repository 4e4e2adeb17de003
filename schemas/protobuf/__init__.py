"""Messages in Protocol Buffers: their files, as published, and the Python classes that are made of them."""
