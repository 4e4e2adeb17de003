"""The OpenAPI document of the endpoints that a caller may call, and a page to read it."""
