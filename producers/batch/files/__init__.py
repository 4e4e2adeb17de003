"""Files of a batch: read row by row, in the forms that people have, and checked before anything is sent."""
