"""Decides which events become requests now: shares, backlogs and cancellations."""
