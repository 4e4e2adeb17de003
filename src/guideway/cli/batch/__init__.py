"""`guideway batch …` and `guideway batcher`."""
