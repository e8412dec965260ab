"""How one asks the daemon: the schema of its verbs and a client."""
