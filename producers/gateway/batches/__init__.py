"""Files and batches in OpenAI's form: what `/v1/files` and `/v1/batches` are."""
