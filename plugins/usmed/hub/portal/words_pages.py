"""What the portal's pages say, in Romanian and in English."""

PAGE_WORDS: dict[str, tuple[str, str]] = {}
