"""Posting to webhooks: where to, how, signed with what, and when again."""
