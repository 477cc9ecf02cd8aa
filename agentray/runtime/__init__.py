"""Acts: channel, hosts, manager, and the one module that knows Ray."""
