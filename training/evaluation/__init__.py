"""Evaluation of guidance: answers, figures, comparisons, reports."""
