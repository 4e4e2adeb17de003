"""Each form of guidance in a file: what one request owns, and what one step sees of all rows."""
