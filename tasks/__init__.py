"""How each step of a release is done; `flows/` says in what order."""
