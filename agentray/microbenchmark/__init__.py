"""`agentray microbenchmark`: what things cost on the running cluster, each beside its baseline."""
