"""Who calls: an API key or a token of an identity provider, each bound to one namespace. The same at every door."""
