"""What is kept: runs, agent states, leases, apps and keys."""
