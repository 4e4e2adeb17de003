"""The client library: submit events, await replies. Programs import it from `guideway`."""
