"""The doors: HTTP and gRPC in, events on general addresses out. A door is a caller, and decides nothing of its own."""
