"""The door in OpenAI's form: endpoints are models. What it does not know it refuses, and never ignores."""
