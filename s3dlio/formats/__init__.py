"""File formats: bytes in, samples or arrays out. Floor 4; nobody here knows stores or frameworks."""
