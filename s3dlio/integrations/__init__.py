"""Programs that this library can be put into: a folder for each of them."""
