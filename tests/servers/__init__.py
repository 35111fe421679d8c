"""Room card: the servers the tests talk to, one per module; none of them uses the library's readers."""
