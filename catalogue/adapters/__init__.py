"""Trained guidance as files: what each form has to be, checked without torch."""
