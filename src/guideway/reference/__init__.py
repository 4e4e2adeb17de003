"""What people may write, for people and for editors: made from the types that read it."""
