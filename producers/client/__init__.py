"""The client library: submit events, await replies."""
