"""Server, worker and watcher on this machine, and on shared ones."""
