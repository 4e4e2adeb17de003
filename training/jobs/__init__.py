"""Training jobs: runs that trainers take from a topic."""
