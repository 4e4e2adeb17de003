"""What is finished, what a commit says of it, and which records kill whole processes. Pure."""
