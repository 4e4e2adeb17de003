"""The engine process: one frozen model, micro-batches of rows that each carry their own guidance."""
