"""Batch jobs: a file of rows, answered on the batch lane."""
