"""Events that name no endpoint: by which endpoint they are answered."""
