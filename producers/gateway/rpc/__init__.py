"""The door in gRPC: our own service, the Open Inference Protocol, health and reflection, on one port."""
