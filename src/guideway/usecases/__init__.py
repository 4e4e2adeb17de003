"""What can be done with guideway: one function each, for the command line, a page, a gateway or a job to call."""
