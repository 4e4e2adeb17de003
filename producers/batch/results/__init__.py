"""What came of the rows of a batch file, written in the forms that people read."""
