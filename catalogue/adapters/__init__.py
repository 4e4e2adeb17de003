"""Trained guidance as files: what each form must contain, checked without torch."""
