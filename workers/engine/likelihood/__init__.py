"""How likely labels, tokens and texts are, for rows whose request asks for it."""
