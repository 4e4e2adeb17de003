"""Which events may become requests now: shares, backlogs and cancellations."""
