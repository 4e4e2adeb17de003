"""`guideway sets …`."""
