"""The Open Inference Protocol, version 2: endpoints as models. Over gRPC it is served by `rpc`, over HTTP by `rest`."""
