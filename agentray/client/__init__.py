"""Talks to a gateway over HTTP; needs neither Ray nor a cluster."""
