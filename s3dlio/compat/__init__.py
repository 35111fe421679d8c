"""Other libraries' names for what this one does. Floor 6; thin, and nothing imports it but the front door."""
