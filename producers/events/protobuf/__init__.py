"""Events in Protobuf: from bytes to fields, by the message that the endpoint declares."""
