"""Makes the pages that hold what the code declares or what the kept results say."""
