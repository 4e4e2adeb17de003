"""How good guidance is: answers, figures, comparisons, reports."""
