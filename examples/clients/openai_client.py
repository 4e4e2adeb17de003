"""One text and its answer, with OpenAI's own package and nothing else.

    python openai_client.py URL NAMESPACE/ENDPOINT TEXT

URL is that of a gateway, such as http://127.0.0.1:8080/v1. OPENAI_API_KEY is a key of `guideway keys create`.
The text is printed as it comes, then the rest of the reply as one line of JSON. Exit code 0: completed; 1: refused.
"""

import json
import sys
from typing import Any

from openai import APIError, OpenAI, OpenAIError


def main() -> int:
    """Call the endpoint as a model."""
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 64
    _, url, model, text = sys.argv
    try:
        with OpenAI(base_url=url) as client:
            chunks = client.chat.completions.create(
                model=model, messages=[{"role": "user", "content": text}], stream=True
            )
            told: dict[str, Any] = {}
            for chunk in chunks:
                for choice in chunk.choices:
                    print(choice.delta.content or "", end="", flush=True)
                told = (chunk.model_extra or {}).get("guideway", told)
    except APIError as error:
        print(f"{error.code or 'not sent'}: {error.message}", file=sys.stderr)
        return 1
    except OpenAIError as error:
        # Without a key the package does not begin.
        print(error, file=sys.stderr)
        return 1
    print()
    print(
        json.dumps({"version": told["endpoint_version"], "usage": told["usage"], "value": told["samples"][0]["value"]})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
