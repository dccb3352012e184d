"""Features out of networks: hooks that live in a `with`, and banks that keep rows aligned."""
