"""What the studio does: run a task, publish, roll back and promote, carry out a job."""
