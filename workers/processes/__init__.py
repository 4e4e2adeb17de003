"""Child processes of the worker: the socket, start, questions and answers, end."""
