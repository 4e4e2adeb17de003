"""The frozen model: found, identified, loaded, and run for one step."""
