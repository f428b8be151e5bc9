"""What the steps share: records, errors, the store, child processes, settings."""
