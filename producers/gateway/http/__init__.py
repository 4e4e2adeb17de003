"""The HTTP door: what all of its paths share, and the native ones. Its parts are routes, put together in `app.py`."""
