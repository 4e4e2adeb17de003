"""`guideway archive`: archived results, looked at, taken out, erased."""
